"""Keeps the last lines that this process and its children wrote, so that a failed start can say why."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Sequence

_KEPT_LINES = 400
_ERROR_LINE = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b: ?\S.*)$")
_WRAPPERS = ("Engine core initialization failed", "WorkerProc initialization failed", "Failed core proc")
"""What vLLM's outer processes say about a failure further in."""


class StderrTail:
    """Copies file descriptors 1 and 2 of this process and of children started later, line by line.

    Everything still reaches the original stderr. The copy ends with the process.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._original = os.dup(2)
        read_end, write_end = os.pipe()
        for descriptor in (1, 2):
            os.dup2(write_end, descriptor)
        os.close(write_end)
        threading.Thread(target=self._copy, args=(read_end,), name="stderr-tail", daemon=True).start()

    def lines(self) -> list[str]:
        return list(self._lines)

    def _copy(self, read_end: int) -> None:
        with os.fdopen(read_end, "rb", buffering=0) as source:
            rest = b""
            while chunk := source.read(65536):
                os.write(self._original, chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                self._lines.extend(line.decode(errors="replace") for line in lines)


def last_error_line(lines: Sequence[str]) -> str | None:
    """The last line that names an error, leaving out those that only report another process's failure.

    Example:
        >>> last_error_line(["(Worker) ERROR ValueError: no space", "RuntimeError: Engine core initialization failed."])
        'ValueError: no space'
    """
    found = [match[1].strip() for line in lines if (match := _ERROR_LINE.search(line))]
    causes = [line for line in found if not any(wrapper in line for wrapper in _WRAPPERS)]
    return (causes or found or [None])[-1]
