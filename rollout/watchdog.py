"""Outlives a sampler by moments: when its actor or the driver is gone, kills what they left behind, then ends.

When a driver is killed, Ray ends the actor some ten seconds later, and the actor's own children with it, but not
theirs: an engine's workers stay. The watchdog finds every process of the sampler by an environment variable that they
inherited, so that neither re-parenting nor a session of their own hides them. It runs as a bare script on the standard
library, about 10 MB, detached from the actor, since Ray kills an actor's direct children first of all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

TOKEN_VARIABLE = "QUORUM_SAMPLER_TOKEN"
POLL_SECONDS = 0.25
_SWEEPS = 8
_START_SECONDS = 60.0


def start(token: str, *watched: int) -> int:
    """Start the watchdog of this process.

    Args:
        token: value of TOKEN_VARIABLE in the environment of the processes to end.
        watched: further processes on this machine whose end means the same, the driver above all.

    Returns:
        Its process id. It is nobody's child here; end it with `stop`.
    """
    pids = [str(pid) for pid in (os.getpid(), *watched)]
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), token, *pids]
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


def pids_with_token(token: str) -> list[int]:
    """Living processes of this user that inherited the token."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue  # it ended, or belongs to another user
    return found


def kill_token(token: str) -> list[int]:
    """SIGKILL every process with the token, except this one. Returns whom it found."""
    pids = [pid for pid in pids_with_token(token) if pid != os.getpid()]
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


def watch(token: str, watched: Sequence[int]) -> None:
    """Wait until one of the watched is gone, then end the first of them, the actor, and sweep its processes."""
    identities = {pid: started_at(pid) for pid in watched}
    while all(seen is not None and started_at(pid) == seen for pid, seen in identities.items()):
        time.sleep(POLL_SECONDS)
    actor = watched[0]
    if identities[actor] is not None and started_at(actor) == identities[actor]:
        stop(actor)
    for _ in range(_SWEEPS):
        kill_token(token)
        time.sleep(POLL_SECONDS)


def detach(token: str, watched: Sequence[int]) -> None:
    """Watch in a process without a parent here; print its id and return in the caller."""
    child = os.fork()
    if child:
        os.write(1, str(child).encode())
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    watch(token, watched)


if __name__ == "__main__":
    detach(sys.argv[1], [int(pid) for pid in sys.argv[2:]])
