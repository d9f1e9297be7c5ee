"""Where the seconds of a cold start went: from the command's first instant to the first update of the weights.

Phases follow one another and sum to the whole. Inside `actors` parts run side by side: each has its own seconds, from
when it was asked for, and steps of its own below it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.run_dir import write_atomic

FILE = "start.json"
IMPORTS, CHECKS, RAY, NODES, ACTORS = "imports", "checks", "ray", "nodes", "actors"
FILES, WEIGHTS, EVALUATION, GROUPS, UPDATE = "run files", "first weights", "evaluation", "first groups", "first update"
LEAST_SECONDS = 1e-3
"""What took less did not happen: the evaluation of a run that has none. It counts to the next phase."""
READY_WITH = WEIGHTS
"""After this phase everything is READY: all actors are up and every sampler holds the weights."""


@dataclass
class StartTimes:
    """A stopwatch that is told what ended just now.

    Example:
        start = StartTimes.of_process()
        start.mark("imports")
    """

    last: float = field(default_factory=time.monotonic)
    """When the phase at hand began, in seconds of the monotonic clock."""
    phases: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    """Of what runs side by side inside `actors`."""
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of a part, one after the other; the slowest actor's of each kind."""
    is_over: bool = False
    """Whether the first update was taken; from then on nothing is noted."""

    @classmethod
    def of_process(cls) -> StartTimes:
        """One that began when the operating system started this process."""
        return cls(time.monotonic() - _age())

    @classmethod
    def over(cls) -> StartTimes:
        """One that notes nothing."""
        return cls(is_over=True)

    def mark(self, name: str) -> None:
        """The phase `name` ended just now; it began where the one before ended. One that took no time is left out."""
        now = time.monotonic()
        if self.is_over or now - self.last < LEAST_SECONDS:
            return
        self.phases[name] = self.phases.get(name, 0.0) + now - self.last
        self.last = now

    def end(self, directory: Path, tell: Callable[[str], None]) -> None:
        """The first update was taken: write the table into the run directory and say it. Raises StorageError."""
        if self.is_over:
            return
        self.mark(UPDATE)
        self.is_over = True
        write_atomic(directory / FILE, json.dumps(self.table(), indent=2) + "\n")
        tell(self.line())

    @property
    def seconds(self) -> float:
        """To the end of the last phase."""
        return sum(self.phases.values())

    @property
    def ready_seconds(self) -> float:
        """Until everything was READY: all phases up to the first weights, that one too."""
        names = list(self.phases)
        until = names[: names.index(READY_WITH) + 1] if READY_WITH in names else names
        return sum(self.phases[name] for name in until)

    @property
    def slowest(self) -> str:
        """The slowest part; empty when there is none."""
        return max(self.parts, key=self.parts.__getitem__, default="")

    def table(self) -> dict[str, object]:
        """Content of start.json, all in seconds."""
        return {
            "seconds": self.seconds,
            "ready_seconds": self.ready_seconds,
            "phases": self.phases,
            "parts": self.parts,
            "steps": self.steps,
        }

    def line(self) -> str:
        """The table in a line for the display."""
        shown = []
        for name, seconds in self.phases.items():
            parts = ", ".join(f"{part} {took:.1f}" for part, took in sorted(self.parts.items()))
            shown.append(f"{name} {seconds:.1f}" + (f" ({parts})" if name == ACTORS and parts else ""))
        return (
            f"ready after {self.ready_seconds:.1f} s, first update after {self.seconds:.1f} s; in seconds: "
            + ", ".join(shown)
        )


def read_start(directory: Path) -> Mapping[str, object]:
    """Content of a run's start.json. Raises OSError when the run has none: it took no update."""
    table: dict[str, object] = json.loads((directory / FILE).read_text(encoding="utf-8"))
    return table


def _age() -> float:
    """Seconds since this process was started; 0 where the system does not say."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return 0.0
    return max(0.0, age)
