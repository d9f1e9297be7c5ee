"""Outlives its owner by moments: when the owner or the driver is gone, kills what they left behind, then ends.

When a driver is killed, Ray ends its actors some ten seconds later, and its own agents later still; an actor's own
children end with it, but not theirs: an engine's workers stay. The watchdog finds every process by a mark: an
environment variable that they inherited, so that neither re-parenting nor a session of their own hides them. It runs
as a bare script on the standard library, about 10 MB, detached from its owner, since Ray kills an actor's direct
children first of all. What killed processes left in shared memory and in their folder for temporary files it removes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

KEEP_ENVIRONMENT = "SPT_NOENV"
"""With it a process that sets its title (Ray's agents, vLLM's engine core) leaves its environment readable."""
SHARED_MEMORY = "/dev/shm"
SHARED_PREFIXES = ("psm_", "sem.mp-")
"""What Python calls the shared memory and semaphores of its processes. Who is killed does not remove them."""
POLL_SECONDS = 0.25
_SWEEPS = 8
_START_SECONDS = 60.0
_DISMISS_SECONDS = 10.0


def new_mark(kind: str) -> str:
    """A mark that nobody else has, "QUORUM_KIND=..."."""
    return f"QUORUM_{kind.upper()}={os.urandom(16).hex()}"


@contextmanager
def marking(mark: str, folder: str = "") -> Iterator[None]:
    """Every process started in the body inherits the mark, and so do those that it starts later; with a folder they
    keep their temporary files there."""
    name, _, value = mark.partition("=")
    changed = {name: value, KEEP_ENVIRONMENT: "1"} | ({"TMPDIR": folder} if folder else {})
    before = {variable: os.environ.get(variable) for variable in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for variable, old in before.items():
            if old is None:
                del os.environ[variable]
            else:
                os.environ[variable] = old


def start(mark: str, *watched: int, folder: str = "") -> int:
    """Start the watchdog of this process.

    Args:
        mark: of the processes to end.
        watched: further processes on this machine whose end means the same, the driver above all.
        folder: of their temporary files, removed after their end; empty for none.

    Returns:
        Its process id. It is nobody's child here; end it with `dismiss`.
    """
    pids = [str(pid) for pid in (os.getpid(), *watched)]
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), mark, folder, *pids]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={}, timeout=_START_SECONDS, check=True
    )
    return int(done.stdout)


def dismiss(pid: int) -> None:
    """Have a watchdog sweep up now and end, its owner left alone: it alone knows what processes that are gone held in
    shared memory. One that takes too long is killed; nothing happens when it is gone already."""
    identity = started_at(pid)
    if identity is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _DISMISS_SECONDS
    while started_at(pid) == identity:
        if time.monotonic() > deadline:
            stop(pid)
            return
        time.sleep(0.02)


def stop(pid: int) -> None:
    """SIGKILL a process; nothing happens when it is gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def marked(mark: str) -> list[int]:
    """Living processes of this user with the mark, this one left out."""
    wanted = mark.encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue  # it ended, or belongs to another user
    return found


def end_marked(mark: str, grace_seconds: float = 0.0) -> list[int]:
    """SIGKILL every process that still has the mark after `grace_seconds`. Returns whom it killed."""
    deadline = time.monotonic() + grace_seconds
    while (pids := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        stop(pid)
    return pids


def shared_names(pids: Iterable[int]) -> set[str]:
    """Names of shared memory and semaphores of Python's that processes hold."""
    inodes = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
                inodes |= {line.split()[4] for line in file if SHARED_MEMORY in line}
        except OSError:
            continue  # it ended
    return {name for name, inode in _listing().items() if inode in inodes}


def _listing() -> dict[str, str]:
    """Shared memory and semaphores that there are now, whoever's: inode by name. A semaphore is mapped under another
    name than it has."""
    try:
        with os.scandir(SHARED_MEMORY) as entries:
            return {entry.name: str(entry.inode()) for entry in entries if entry.name.startswith(SHARED_PREFIXES)}
    except OSError:
        return {}


def remove_left(names: Iterable[str], folder: str) -> None:
    """Remove shared memory by name, and a folder, that processes which are gone left behind."""
    for name in names:
        with suppress(OSError):
            os.unlink(os.path.join(SHARED_MEMORY, name))
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def started_at(pid: int) -> str | None:
    """When a living process started, in the kernel's ticks: with the pid, its identity. None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


_DISMISSED: list[bool] = []
"""Not empty once this watchdog was dismissed."""


def watch(mark: str, folder: str, watched: Sequence[int]) -> None:
    """Wait until one of the watched is gone, then end the first of them, the owner, and sweep up what is marked.
    On `dismiss` the owner stays, with what it holds."""
    owner, identities = watched[0], {pid: started_at(pid) for pid in watched}
    names: set[str] = set()
    listed: dict[str, str] = {}
    while not _DISMISSED and all(seen is not None and started_at(pid) == seen for pid, seen in identities.items()):
        if (now := _listing()) != listed:
            listed = now
            names |= shared_names([owner, *marked(mark)])
        time.sleep(POLL_SECONDS)
    names |= shared_names([owner, *marked(mark)])
    if not _DISMISSED and identities[owner] is not None and started_at(owner) == identities[owner]:
        stop(owner)
    for _ in range(_SWEEPS):
        if not end_marked(mark) and _DISMISSED:
            break
        time.sleep(POLL_SECONDS)
    remove_left(names - shared_names([owner]), folder)


def detach(mark: str, folder: str, watched: Sequence[int]) -> None:
    """Watch in a process without a parent here; print its id and return in the caller."""
    signal.signal(signal.SIGTERM, lambda *_: _DISMISSED.append(True))
    child = os.fork()
    if child:
        os.write(1, str(child).encode())
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    watch(mark, folder, watched)


if __name__ == "__main__":
    detach(sys.argv[1], sys.argv[2], [int(pid) for pid in sys.argv[3:]])
