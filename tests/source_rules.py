"""Reads our source as syntax trees: waits without a deadline, swallowed errors, imports, sizes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("quorum", "configs", "data", "rollout", "voting", "learner", "orchestration", "benchmarks")

_NEED_ARGUMENT = frozenset({"get", "join", "wait", "result", "acquire", "communicate", "select"})
"""Methods that block for ever when called without any argument."""
_NEED_TIMEOUT = frozenset(
    {
        "ray.get",
        "ray.wait",
        "asyncio.wait",
        "asyncio.as_completed",
        "concurrent.futures.wait",
        "futures.wait",
        "as_completed",
        "subprocess.run",
        "subprocess.call",
        "subprocess.check_call",
        "subprocess.check_output",
        "dist.init_process_group",
        "dist.new_group",
        "dist.monitored_barrier",
        "torch.distributed.init_process_group",
        "torch.distributed.new_group",
        "deepspeed.init_distributed",
        "urllib.request.urlopen",
        "urlopen",
        "requests.get",
        "requests.post",
        "socket.create_connection",
    }
)
"""Functions that block for ever unless `timeout=` is given."""
_STORES = frozenset({"TCPStore", "FileStore", "PrefixStore", "ProcessGroupGloo", "ProcessGroupNCCL"})
_TIMEOUT_WORDS = ("timeout", "timeout_seconds", "timeout_s", "timeout_ms", "wait_timeout")


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule."""

    line: int
    text: str


def sources(*packages: str) -> list[Path]:
    """Python files of the given packages (default: all of ours), sorted."""
    return sorted(path for package in packages or PACKAGES for path in (ROOT / package).rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute chain; "" for anything else at its root."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def endless_waits(tree: ast.AST) -> list[Finding]:
    """Calls that may wait for ever, in line order."""
    return sorted(_waits(tree, bounded=False, function=tree), key=lambda finding: finding.line)


def _waits(node: ast.AST, *, bounded: bool, function: ast.AST) -> Iterator[Finding]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        bounded, function = False, node
    if isinstance(node, (ast.With, ast.AsyncWith)):
        yield from _bare_locks(node)
        bounded = bounded or any(_sets_deadline(item.context_expr) for item in node.items)
    if isinstance(node, ast.Call):
        text = None if bounded else _endless(node, function)
        if text:
            yield Finding(node.lineno, text)
        bounded = bounded or dotted_name(node.func) in ("asyncio.wait_for", "wait_for")
    if isinstance(node, ast.Await) and not bounded and _is_remote_call(node.value):
        yield Finding(node.lineno, "await of a remote call outside asyncio.wait_for")
    for child in ast.iter_child_nodes(node):
        yield from _waits(child, bounded=bounded, function=function)


def _sets_deadline(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and dotted_name(expression.func) in (
        "asyncio.timeout",
        "asyncio.timeout_at",
        "timeout",
    )


def _bare_locks(node: ast.With | ast.AsyncWith) -> Iterator[Finding]:
    for item in node.items:
        name = dotted_name(item.context_expr).rpartition(".")[2].lower()
        if any(word in name for word in ("lock", "mutex", "semaphore", "condition")):
            yield Finding(item.context_expr.lineno, f"with {name}: waits for ever; acquire it with a timeout")
        if isinstance(item.context_expr, ast.Call) and dotted_name(item.context_expr.func).endswith("PoolExecutor"):
            yield Finding(item.context_expr.lineno, "with an executor: its end waits for every thread, however long")


def _endless(call: ast.Call, function: ast.AST) -> str | None:
    name = dotted_name(call.func)
    method = call.func.attr if isinstance(call.func, ast.Attribute) else name
    if _has_timeout(call):
        return None
    if name in _NEED_TIMEOUT:
        return f"{name} without timeout="
    if method in _STORES and len(call.args) < 4 and method != "PrefixStore":
        return f"{method} without timeout="
    if isinstance(call.func, ast.Attribute) and method in _NEED_ARGUMENT and _only_asks_to_block(call):
        return f".{method}() without a timeout"
    if name == "os.waitpid" and len(call.args) == 2 and _is_constant(call.args[1], 0):
        return "os.waitpid without WNOHANG"
    if name == "fcntl.flock" and "LOCK_NB" not in ast.dump(call) and "LOCK_UN" not in ast.dump(call):
        return "fcntl.flock without LOCK_NB"
    if name == "select.select" and len(call.args) < 4:
        return "select.select without a timeout"
    if name == "input":
        return "input() waits for a person"
    if isinstance(call.func, ast.Attribute) and method in ("recv", "accept") and not call.args:
        return None if _calls_any(function, ("settimeout", "poll")) else f".{method}() without settimeout or poll"
    return None


def _has_timeout(call: ast.Call) -> bool:
    return any(word.arg in _TIMEOUT_WORDS and not _is_constant(word.value, None) for word in call.keywords)


def _only_asks_to_block(call: ast.Call) -> bool:
    """No argument, or only `block=True`, `blocking=True`, `True`, `None`, `timeout=None`."""
    values = [*call.args, *(word.value for word in call.keywords)]
    named = all(word.arg in ("block", "blocking", *_TIMEOUT_WORDS) for word in call.keywords)
    return named and all(_is_constant(value, True) or _is_constant(value, None) for value in values)


def _is_constant(node: ast.expr, value: object) -> bool:
    return (
        isinstance(node, ast.Constant)
        and node.value is value
        or (isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value)
    )


def _is_remote_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "remote"


def _calls_any(node: ast.AST, methods: tuple[str, ...]) -> bool:
    return any(
        isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr in methods
        for child in ast.walk(node)
    )


def swallowed_errors(tree: ast.AST) -> list[Finding]:
    """Handlers of everything that do nothing about it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
            if all(isinstance(part, (ast.Pass, ast.Continue)) or _is_docstring(part) for part in node.body):
                found.append(Finding(node.lineno, "every error is caught and dropped"))
        if isinstance(node, ast.Call) and dotted_name(node.func) in ("suppress", "contextlib.suppress"):
            if any(_is_broad(argument) for argument in node.args):
                found.append(Finding(node.lineno, "every error is suppressed"))
    return found


def _is_broad(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(dotted_name(name) in ("Exception", "BaseException") for name in names)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def prints(tree: ast.AST) -> list[Finding]:
    return [
        Finding(node.lineno, "print")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted_name(node.func) == "print"
    ]


def imported(tree: ast.AST, *, at_import_time: bool = False) -> list[tuple[int, str]]:
    """(line, full module name) of every import; only those run when the module is imported, if asked."""
    found: list[tuple[int, str]] = []
    for node in _nodes_run_at_import(tree) if at_import_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Call) and dotted_name(node.func).endswith("import_module") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.append((node.lineno, first.value))
    return found


def _nodes_run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and dotted_name(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _nodes_run_at_import(child)


def long_functions(tree: ast.AST, limit: int) -> list[Finding]:
    """Functions of more than `limit` lines, from `def` to their last line."""
    return [
        Finding(node.lineno, f"{node.name} has {length} lines")
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > limit
    ]
