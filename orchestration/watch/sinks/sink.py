"""What a metric sink is: somewhere that a run's metrics go besides `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Kept = dict[str, str]
"""What a sink wants to know again when the run is resumed: the id of the run on its server."""


@dataclass(frozen=True, slots=True)
class SinkRun:
    """Whose metrics they are."""

    path: Path
    """Run directory."""
    run_id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration as plain values; it holds no keys of anybody."""
    kept: Kept = field(default_factory=dict)
    """What this sink returned of `keep` in an earlier incarnation."""

    @property
    def name(self) -> str:
        """What people call the run: its directory's name."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What a step has several values of: one per sampler, one per group."""

    step: int
    tokens_per_second: Mapping[str, float] = field(default_factory=dict)
    """By sampler: completion tokens of the step's groups over the seconds of generating."""
    devices: Mapping[str, str] = field(default_factory=dict)
    """By sampler: cpu or cuda."""
    queue_depth: int = 0
    """Groups that wait for a sampler at the step's end."""
    running_groups: Mapping[str, int] = field(default_factory=dict)
    """By sampler, at the step's end."""
    ages: Sequence[int] = ()
    """Versions behind of each group of the step."""
    transfer_seconds: float | None = None
    """None where nothing was sent."""


class MetricSink(Protocol):
    """One sink. Its methods are called from one thread of its own: they may take their time, and may raise."""

    def open(self) -> Kept:
        """Connect. Returns what `SinkRun.kept` is to hold when the run is resumed."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step by registered name, all measured. A step may come more than once, and after later ones:
        the audit's values of a step do, and so does a step done again after a resume, which supersedes the first."""
        ...

    def observe(self, facts: StepFacts) -> None:
        """What a step has several values of; a sink without labels leaves it."""
        ...

    def close(self, is_failed: bool) -> None:
        """The run, or this incarnation of it, has ended."""
        ...
