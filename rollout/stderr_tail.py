"""Keeps the last lines that child processes wrote while they started, so that a failed start can say why."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Sequence

_KEPT_LINES = 400
_ERROR_LINE = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b: ?\S.*)$")
_WRAPPERS = ("Engine core initialization failed", "WorkerProc initialization failed", "Failed core proc")
"""What vLLM's outer processes say about a failure further in."""


class StderrTail:
    """While open, file descriptors 1 and 2 go through a pipe that is copied, line by line, to the original stderr.

    Children started meanwhile keep writing to the pipe for as long as they live; this process gets its own
    descriptors back at the end of the block.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._saved: dict[int, int] = {}

    def __enter__(self) -> StderrTail:
        sys.stdout.flush()
        sys.stderr.flush()
        self._saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        read_end, write_end = os.pipe()
        for descriptor in self._saved:
            os.dup2(write_end, descriptor)
        os.close(write_end)
        copy_to = os.dup(self._saved[2])
        threading.Thread(target=self._copy, args=(read_end, copy_to), name="stderr-tail", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in self._saved.items():
            os.dup2(saved, descriptor)
            os.close(saved)

    def last_error_line(self) -> str | None:
        """See the function of this name. Lines that children wrote a moment ago may still be on their way."""
        return last_error_line(list(self._lines))

    def _copy(self, read_end: int, copy_to: int) -> None:
        with os.fdopen(read_end, "rb", buffering=0) as source, os.fdopen(copy_to, "wb", buffering=0) as target:
            rest = b""
            while chunk := source.read(65536):
                target.write(chunk)
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
