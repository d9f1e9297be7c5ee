"""The guard: what its detectors say, as one score and one alarm in words. Sees a run's metrics, never a reference.

It remembers nothing that the metrics do not hold: given the rows of `metrics.jsonl` again, it is where it was. A resume
and a rollback rebuild it so, and `quorum guard --replay` judges it so on any run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from configs.schema import Plugin
from orchestration.watch.guard.detectors import Reading, Row
from orchestration.watch.guard.registry import make_detectors
from orchestration.watch.metrics import needs_reference

REARMED_BELOW = 0.5
"""Score below which an alarm is over and the next one can be raised."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's view after a row."""

    step: int
    score: float
    """In [0, 1]: weights of the tripped detectors, one per metric; below that, how near the nearest is to tripping."""
    tripped: Mapping[str, Reading] = field(default_factory=dict)
    """By detector, the newest reading of those that are tripped, the heaviest first."""
    is_alarmed: bool = False
    is_new: bool = False
    """Whether the alarm was raised by this row."""

    @property
    def reason(self) -> str:
        """What is tripped, in words."""
        return "; ".join(f"{reading.reason} ({name})" for name, reading in self.tripped.items())

    @property
    def healthy_until(self) -> int:
        """Steps done when what is tripped now last looked healthy; the row's own step when nothing is."""
        return min((reading.onset for reading in self.tripped.values()), default=self.step)


class Guard:
    """Takes a run's rows in, one after the other."""

    def __init__(self, detectors: Sequence[Plugin] = (), alarm_at: float = 1.0) -> None:
        """Begin without a past.

        Args:
            detectors: of the configuration; none: all, as they ship.
            alarm_at: score that raises the alarm, in (0, 1].

        Raises:
            ConfigError: see `make_detectors`.
        """
        self._detectors = make_detectors(detectors)
        self._alarm_at = alarm_at
        self._readings: dict[str, Reading] = {}
        self._is_alarmed = False

    def update(self, row: Row, step: int) -> Verdict:
        """Take one row in.

        Args:
            row: metrics by registered name; those that need references are not looked at.
            step: of the row.
        """
        seen = {
            name: value
            for name, value in row.items()
            if value is not None and math.isfinite(value) and not needs_reference(name)
        }
        for name, (detector, _) in self._detectors.items():
            reading = detector.update(seen, step)
            if reading is not None:
                self._readings[name] = reading
        score, tripped = self._score()
        was_alarmed = self._is_alarmed
        self._is_alarmed = score >= (min(REARMED_BELOW, self._alarm_at) if was_alarmed else self._alarm_at)
        return Verdict(step, score, tripped, self._is_alarmed, self._is_alarmed and not was_alarmed)

    def _score(self) -> tuple[float, dict[str, Reading]]:
        weights = {name: weight for name, (_, weight) in self._detectors.items()}
        names = [name for name, reading in self._readings.items() if reading.level >= 1.0]
        tripped = {name: self._readings[name] for name in sorted(names, key=lambda name: (-weights[name], name))}
        by_metric: dict[str, float] = {}
        for name, reading in tripped.items():  # two readings of one number are not two witnesses
            by_metric[reading.metric] = max(weights[name], by_metric.get(reading.metric, 0.0))
        near = max((weights[name] * reading.level for name, reading in self._readings.items()), default=0.0)
        return min(1.0, max(sum(by_metric.values()), near)), tripped

    def levels(self) -> dict[str, float]:
        """Level of every detector that has read anything, by name."""
        return {name: reading.level for name, reading in self._readings.items()}
