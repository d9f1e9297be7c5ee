"""How long a rank's start took, by what it did."""

from __future__ import annotations

import time
from collections.abc import Callable


class PhaseTimes:
    """Passes on what a rank begins to do, and notes when."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._began: list[tuple[str, float]] = []

    def __call__(self, phase: str) -> None:
        """The phase before ends, this one begins."""
        self._began.append((phase, time.monotonic()))
        self._report(phase)

    def seconds(self) -> dict[str, float]:
        """Of every phase that has ended, in order. The last one that was told only ends the one before it."""
        ends = [began for _, began in self._began[1:]]
        return {name: end - began for (name, began), end in zip(self._began, ends, strict=False)}
