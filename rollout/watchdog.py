"""Outlives a sampler's actor by moments: when the actor is gone, kills what it left behind, then ends.

An engine's processes survive the death of the process that started them where no Ray daemon is left to reap them.
The watchdog finds them by an environment variable that they inherited, so that neither re-parenting nor a session of
their own hides them. It runs as a bare script on the standard library, about 10 MB.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

TOKEN_VARIABLE = "QUORUM_SAMPLER_TOKEN"
POLL_SECONDS = 0.25
_SWEEPS = 4


def start(token: str) -> subprocess.Popen[bytes]:
    """Start the watchdog of this process. `token` must be in this process's environment as TOKEN_VARIABLE."""
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), token]
    # Its own session and a bare environment: nothing that sweeps up the sampler takes the watchdog first.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env={})


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
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return pids


def watch(parent_pid: int, token: str) -> None:
    """Wait until the parent is gone, then sweep until nothing is left."""
    while os.getppid() == parent_pid:
        time.sleep(POLL_SECONDS)
    for _ in range(_SWEEPS):
        if not kill_token(token):
            return
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
