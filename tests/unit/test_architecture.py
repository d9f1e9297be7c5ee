"""Rules over the source itself: imports point one way, every wait ends, nothing is swallowed, sizes stay readable."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests import source_rules as rules
from tests.source_rules import ROOT, Finding

STAGES = {"data", "rollout", "voting", "learner"}
MAY_IMPORT = {
    "quorum": set(),
    "configs": {"quorum"},
    **{stage: {"quorum", "configs"} for stage in STAGES},
    "orchestration": {"quorum", "configs", *STAGES},
    "benchmarks": {"quorum", "configs", "orchestration", *STAGES},
}
HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "reasoning_gym", "tensorboard", "psutil")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 80


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def report(path: Path, findings: list[Finding]) -> list[str]:
    return [f"{name(path)}:{finding.line}: {finding.text}" for finding in findings]


def foreign_imports(path: Path) -> list[str]:
    package = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[package] | {package}
    if package == "orchestration" and path.parent.name == "cli":
        allowed = allowed | {"benchmarks"}
    return [
        f"{name(path)}:{line}: {package} imports {module}"
        for line, module in rules.imported(rules.parse(path))
        if module.partition(".")[0] in MAY_IMPORT and module.partition(".")[0] not in allowed
    ]


def test_imports_point_one_way_and_stages_never_import_each_other() -> None:
    assert [line for path in rules.sources() for line in foreign_imports(path)] == []


def test_deepspeed_is_imported_in_one_file() -> None:
    importers = [
        name(path)
        for path in rules.sources("quorum", "configs", "data", "rollout", "voting", "learner", "orchestration")
        if any(module.partition(".")[0] == "deepspeed" for _, module in rules.imported(rules.parse(path)))
    ]
    assert importers in ([], ["learner/zero.py"])


def test_vllm_is_imported_by_the_rollout_and_the_transfer_alone() -> None:
    importers = {
        name(path).partition("/")[0]
        for path in rules.sources("quorum", "configs", "data", "voting", "orchestration")
        if any(module.partition(".")[0] == "vllm" for _, module in rules.imported(rules.parse(path)))
    }
    assert importers == set()


def test_no_test_helper_or_test_is_imported_by_the_source() -> None:
    importers = [
        name(path)
        for path in rules.sources()
        if any(module.partition(".")[0] in ("tests", "pytest") for _, module in rules.imported(rules.parse(path)))
    ]
    assert importers == []


@pytest.mark.parametrize("package", ["quorum", "configs", "voting", "data", "orchestration"])
def test_heavy_libraries_are_not_imported_with_the_module(package: str) -> None:
    eager = [
        f"{name(path)}:{line}: {module}"
        for path in rules.sources(package)
        if "prepare" not in path.parts
        for line, module in rules.imported(rules.parse(path), at_import_time=True)
        if module.partition(".")[0] in HEAVY
    ]
    assert eager == []


def test_the_base_install_imports_without_any_heavy_library() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in rules.sources("quorum", "configs", "voting", "data")
        if "prepare" not in path.parts
    ]
    modules += [
        "orchestration.cli.main",
        "orchestration.cli.doctor",
        "orchestration.cli.report",
        "orchestration.cli.vote",
        "orchestration.machine",
        "orchestration.revote",
    ]
    code = f"""
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {HEAVY!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
for module in {modules!r}:
    importlib.import_module(module)
from orchestration.registries import registries
assert all(registries().values())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_help_imports_nothing_that_is_slow() -> None:
    code = f"""
import sys
from orchestration.cli.main import app
try:
    app(['--help'], prog_name='quorum')
except SystemExit:
    pass
print([m for m in {HEAVY + ("numpy", "pyarrow", "pydantic", "math_verify")!r} if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_wait_ends() -> None:
    paths = [*rules.sources(), *sorted((ROOT / "scripts").glob("*.py"))]
    assert [line for path in paths for line in report(path, rules.endless_waits(rules.parse(path)))] == []


@pytest.mark.parametrize(
    "snippet",
    [
        "ray.get(ref)",
        "ray.get(ref, timeout=None)",
        "ray.wait(refs, num_returns=1)",
        "queue.get()",
        "queue.get(True)",
        "queue.get(block=True)",
        "queue.get(timeout=None)",
        "lock.acquire()",
        "lock.acquire(blocking=True)",
        "with self._lock:\n    pass",
        "thread.join()",
        "with ThreadPoolExecutor(3) as pool:\n    pass",
        "process.wait()",
        "process.communicate()",
        "event.wait()",
        "future.result()",
        "subprocess.run(['ls'], check=True)",
        "subprocess.check_output(['ls'])",
        "os.waitpid(pid, 0)",
        "fcntl.flock(handle, fcntl.LOCK_EX)",
        "select.select([a], [], [])",
        "connection.recv()",
        "input('?')",
        "concurrent.futures.wait(futures)",
        "dist.init_process_group('gloo')",
        "dist.new_group([0, 1])",
        "deepspeed.init_distributed(dist_backend='gloo')",
        "TCPStore(host, port, 2)",
        "async def f():\n    await queue.get()",
        "async def f():\n    await event.wait()",
        "async def f():\n    await actor.method.remote(1)",
        "async def f():\n    await asyncio.wait(tasks)",
        "async def f():\n    async with asyncio.timeout(3):\n        def g():\n            queue.get()",
        "async def f():\n    async with self.semaphore:\n        pass",
    ],
)
def test_a_wait_without_a_deadline_is_found(snippet: str) -> None:
    assert len(rules.endless_waits(ast.parse(snippet))) == 1


@pytest.mark.parametrize(
    "snippet",
    [
        "ray.get(ref, timeout=3)",
        "ray.wait(refs, timeout=0)",
        "queue.get(timeout=3)",
        "queue.get_nowait()",
        "mapping.get(key)",
        "mapping.get(key, None)",
        "lock.acquire(timeout=3)",
        "lock.acquire(blocking=False)",
        "thread.join(5)",
        "', '.join(words)",
        "event.wait(1.0)",
        "process.communicate(timeout=4)",
        "future.result(timeout=4)",
        "group.wait(timeout_seconds=4)",
        "subprocess.run(['ls'], timeout=3)",
        "os.waitpid(pid, os.WNOHANG)",
        "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "dist.init_process_group('gloo', timeout=limit)",
        "def f():\n    if connection.poll(3):\n        return connection.recv()",
        "async def f():\n    await asyncio.wait_for(queue.get(), 3)",
        "async def f():\n    await asyncio.wait_for(actor.method.remote(1), 3)",
        "async def f():\n    async with asyncio.timeout(3):\n        await event.wait()",
        "async def f():\n    await asyncio.wait(tasks, timeout=3)",
    ],
)
def test_a_wait_with_a_deadline_passes(snippet: str) -> None:
    assert rules.endless_waits(ast.parse(snippet)) == []


def test_no_error_is_swallowed() -> None:
    assert [line for path in rules.sources() for line in report(path, rules.swallowed_errors(rules.parse(path)))] == []


@pytest.mark.parametrize(
    "snippet",
    [
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "for x in y:\n    try:\n        f()\n    except (KeyError, Exception):\n        continue",
        "with contextlib.suppress(Exception):\n    f()",
    ],
)
def test_a_swallowed_error_is_found(snippet: str) -> None:
    assert len(rules.swallowed_errors(ast.parse(snippet))) == 1


def test_only_commands_print() -> None:
    quiet = [
        path for path in rules.sources() if not {"cli", "benchmarks", "prepare"} & set(path.relative_to(ROOT).parts)
    ]
    assert [line for path in quiet for line in report(path, rules.prints(rules.parse(path)))] == []


def test_files_and_functions_stay_readable() -> None:
    long_files = [name(path) for path in rules.sources() if len(path.read_text().splitlines()) > MAX_FILE_LINES]
    assert long_files == []
    long_functions = [
        line
        for path in rules.sources()
        for line in report(path, rules.long_functions(rules.parse(path), MAX_FUNCTION_LINES))
    ]
    assert long_functions == []


def test_every_package_is_listed_for_the_wheel() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {".".join(path.parent.relative_to(ROOT).parts) for path in rules.sources() if path.name == "__init__.py"}
    assert listed == present
    homes = {".".join(path.parent.relative_to(ROOT).parts) for path in rules.sources()}
    assert homes <= present, "folders of Python files without __init__.py are left out of the wheel"


def test_the_notebook_entry_points_are_exported() -> None:
    orchestration = importlib.import_module("orchestration")
    assert set(orchestration.__all__) == {"train", "evaluate"}
    assert all(callable(getattr(orchestration, entry)) for entry in orchestration.__all__)


def test_every_exported_name_exists() -> None:
    missing = []
    for path in rules.sources("quorum", "configs", "voting", "data"):
        module = importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
        missing += [f"{name(path)}: {entry}" for entry in getattr(module, "__all__", ()) if not hasattr(module, entry)]
    assert missing == []


def test_the_source_names_no_machine_and_leaves_nothing_to_do() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "/" + "work/", "/" + "root/")
    hits = [
        f"{name(path)}: {word}"
        for path in rules.sources()
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert hits == []
