"""A stage's process: started in a session of its own, ended with everything that came from it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)
_GRACE_SECONDS = 5.0
"""For a process that is told to end, before it is killed."""
TAIL_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    code: int | None
    """Exit status, negative for a signal; None: it ran out of time."""
    seconds: float
    output: str


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends: Ray's and vLLM's leave the stage's process group."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run_child(command: Sequence[str], log: Path, limit_seconds: float, environment: Mapping[str, str]) -> Ended:
    """Run a command to its end or its limit, then end its process group and every process that came from it.

    Args:
        command: what to run.
        log: file for its output; what it said is returned too.
        limit_seconds: until it is ended.
        environment: of the child.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code: int | None = None
    with log.open("w") as sink:
        child = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=dict(environment),
            preexec_fn=_end_with_parent,
        )
        try:
            code = child.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            seconds = time.monotonic() - began
            end_tree(child)
    return Ended(code, seconds, log.read_text(errors="replace"))


def end_tree(child: subprocess.Popen[bytes]) -> None:
    """End a child's process group and whatever of its descendants is left, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = _left(child.pid)
        if not left and child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=_GRACE_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)


def _left(child_pid: int) -> list[psutil.Process]:
    """Descendants of ours that still run, adopted ones included. A stage runs alone, so all of them are its own."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
