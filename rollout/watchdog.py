"""Outlives its owner by moments: when the owner or the driver is gone, kills what they left behind, then ends.

When a driver is killed, Ray ends its actors some ten seconds later, and its own agents later still; an actor's own
children end with it, but not theirs: an engine's workers stay. The watchdog finds every process by a mark: an
environment variable that they inherited, so that neither re-parenting nor a session of their own hides them. It runs
as a bare script on the standard library, about 10 MB, detached from its owner, since Ray kills an actor's direct
children first of all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

KEEP_ENVIRONMENT = "SPT_NOENV"
"""With it a process that sets its title (Ray's agents, vLLM's engine core) leaves its environment readable."""
POLL_SECONDS = 0.25
_SWEEPS = 8
_START_SECONDS = 60.0


def new_mark(kind: str) -> str:
    """A mark that nobody else has, "QUORUM_KIND=..."."""
    return f"QUORUM_{kind.upper()}={os.urandom(16).hex()}"


@contextmanager
def marking(mark: str) -> Iterator[None]:
    """Every process started in the body inherits the mark, and so do those that it starts later."""
    name, _, value = mark.partition("=")
    before = {variable: os.environ.get(variable) for variable in (name, KEEP_ENVIRONMENT)}
    os.environ.update({name: value, KEEP_ENVIRONMENT: "1"})
    try:
        yield
    finally:
        for variable, old in before.items():
            if old is None:
                del os.environ[variable]
            else:
                os.environ[variable] = old


def start(mark: str, *watched: int) -> int:
    """Start the watchdog of this process.

    Args:
        mark: of the processes to end.
        watched: further processes on this machine whose end means the same, the driver above all.

    Returns:
        Its process id. It is nobody's child here; end it with `stop`.
    """
    pids = [str(pid) for pid in (os.getpid(), *watched)]
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), mark, *pids]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={}, timeout=_START_SECONDS, check=True
    )
    return int(done.stdout)


def stop(pid: int) -> None:
    """End a watchdog; nothing happens when it is gone already."""
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


def started_at(pid: int) -> str | None:
    """When a living process started, in the kernel's ticks: with the pid, its identity. None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def watch(mark: str, watched: Sequence[int]) -> None:
    """Wait until one of the watched is gone, then end the first of them, the owner, and sweep up what is marked."""
    identities = {pid: started_at(pid) for pid in watched}
    while all(seen is not None and started_at(pid) == seen for pid, seen in identities.items()):
        time.sleep(POLL_SECONDS)
    owner = watched[0]
    if identities[owner] is not None and started_at(owner) == identities[owner]:
        stop(owner)
    for _ in range(_SWEEPS):
        end_marked(mark)
        time.sleep(POLL_SECONDS)


def detach(mark: str, watched: Sequence[int]) -> None:
    """Watch in a process without a parent here; print its id and return in the caller."""
    child = os.fork()
    if child:
        os.write(1, str(child).encode())
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    watch(mark, watched)


if __name__ == "__main__":
    detach(sys.argv[1], [int(pid) for pid in sys.argv[2:]])
