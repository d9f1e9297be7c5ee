"""Which worker processes run, for tests that see that none is left."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: Sequence[int], seconds: float = 5.0) -> bool:
    """Whether all of them have ended, after at most so many seconds."""
    deadline = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(is_running(pid) for pid in pids)


def servers() -> set[int]:
    """Worker servers that are children of this process."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and b"voting.worker_server" in command and is_running(int(path.parent.name)):
            found.add(int(path.parent.name))
    return found
