"""A plug-in for tests of failing learner ranks: RLOO that fails when a file asks for it.

`SABOTAGE` in the environment names a directory. A file `die` there ends the first rank that finds it with SIGKILL, as
many seconds later as the file says, in the middle of its update; each file `oom*` makes one update run out of memory.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from learner.algorithms.rloo import leave_one_out
from learner.registry import ALGORITHMS, Algorithm
from quorum.registry import Entry

VARIABLE = "SABOTAGE"


def sabotaged(*arguments: Any) -> Any:
    """RLOO's advantages, unless this rank is to fail."""
    folder = Path(os.environ[VARIABLE])
    if _take(folder, "die") is not None:
        threading.Timer(float((folder / "taken-die").read_text()), os.kill, (os.getpid(), signal.SIGKILL)).start()
    for order in sorted(folder.glob("oom*")):
        if _take(folder, order.name) is not None:
            raise MemoryError(f"as {order.name} wants it")
    return leave_one_out(*arguments)


def _take(folder: Path, name: str) -> Path | None:
    """The file, for the one rank that gets it."""
    try:
        return (folder / name).rename(folder / f"taken-{name}")
    except FileNotFoundError:
        return None


ALGORITHMS["sabotaged"] = Entry(Algorithm(sabotaged))
