"""What the guard's detectors are made of: three small classes over a step's metrics. They know no reference answer.

Each is a pure function of the rows it was given, in order: the same rows give the same readings, live, after a resume
and in `quorum guard --replay`.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal, Protocol

from pydantic import Field

from orchestration.watch.display import format_value
from quorum.registry import Options

TO_SIGMA = 1.4826
"""The median of a normal distribution's absolute deviations times this is its standard deviation."""
Row = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a detector makes of a row."""

    level: float
    """In [0, 1]: how much of the way to its threshold; 1 trips it."""
    reason: str
    """In words and numbers, for the alarm."""
    onset: int
    """Last step at which what it watches looked healthy."""
    metric: str
    """What it watches."""


class Detector(Protocol):
    """Watches one thing. Holds what it remembers; rebuilt by giving it the same rows again."""

    def update(self, row: Row, step: int) -> Reading | None:
        """Take a row in. None abstains: the row lacks the metric, or there is too little history."""
        ...


class DetectorOptions(Options):
    """What every detector's options have."""

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Added to the guard's score while it is tripped: 1 raises the alarm alone, 0.5 needs another one."""
    persist: Annotated[int, Field(ge=1)] = 1
    """Readings in a row that must be beyond the threshold."""


class PeakLossOptions(DetectorOptions):
    """Options of a loss against the best so far."""

    metric: str
    """Its name; the higher the better."""
    loss: Annotated[float, Field(gt=0, le=1)]
    """Share of the peak that must be lost."""
    min_drop: Annotated[float, Field(ge=0)] = 0.02
    """Loss that counts at all, in the metric's unit."""
    smooth: Annotated[int, Field(ge=1)] = 1
    """Values that a reading is the median of."""


@dataclass(slots=True)
class PeakLoss:
    """Trips when a metric has lost a share of its own best: what sees a slow decline.

    The best is one that was held for `persist` readings, so that a lucky one is no peak.
    """

    options: PeakLossOptions
    _recent: deque[float] = field(init=False)
    _last: deque[float] = field(init=False)
    _peak: float = -1.0
    _peak_step: int = 0

    def __post_init__(self) -> None:
        self._recent = deque(maxlen=self.options.smooth)
        self._last = deque(maxlen=self.options.persist)

    def update(self, row: Row, step: int) -> Reading | None:
        options = self.options
        value = row.get(options.metric)
        if value is None:
            return None
        self._recent.append(value)
        if len(self._recent) < options.smooth:
            return None
        self._last.append(statistics.median(self._recent))
        held = min(self._last)
        if held >= self._peak:
            self._peak, self._peak_step = held, step
        drop = self._peak - max(self._last) if len(self._last) == options.persist else 0.0
        level = _level(drop, max(options.loss * self._peak, options.min_drop))
        now, peak = (format_value(options.metric, x) for x in (self._last[-1], self._peak))
        return Reading(
            level, f"{options.metric} is {now}, {peak} after {self._peak_step} steps", self._peak_step, options.metric
        )


class DriftOptions(DetectorOptions):
    """Options of a departure from the run's own past."""

    metric: str
    """Its name."""
    direction: Literal["up", "down", "both"] = "up"
    """Which way is bad."""
    factor: Annotated[float, Field(ge=1)] = 1.0
    """Times the baseline, or below it divided by this, before it counts."""
    change: Annotated[float, Field(ge=0)] = 0.0
    """Difference from the baseline before it counts, in the metric's unit."""
    sigmas: Annotated[float, Field(ge=0)] = 6.0
    """Difference in robust standard deviations from one value to the next. All three must be passed."""
    baseline: Literal["first", "past"] = "past"
    """first: the run's first `window` values; past: its last `window` ones, so that a slow trend is no drift and a
    new level that lasts is one no longer."""
    window: Annotated[int, Field(ge=2)] = 50
    """Values of the baseline."""
    min_history: Annotated[int, Field(ge=2)] = 50
    """Values before it reads at all."""


@dataclass(slots=True)
class Drift:
    """Trips when a metric leaves the median of the run's own past by more than its noise and a least effect."""

    options: DriftOptions
    _past: deque[float] = field(init=False)
    _last: deque[float] = field(init=False)
    _onset: int = 0

    def __post_init__(self) -> None:
        self._past = deque(maxlen=self.options.window)
        self._last = deque(maxlen=self.options.persist)

    def update(self, row: Row, step: int) -> Reading | None:
        options = self.options
        value = row.get(options.metric)
        if value is None:
            return None
        if len(self._past) < min(options.min_history, options.window):
            self._past.append(value)
            self._onset = step
            return None
        middle = statistics.median(self._past)
        self._last.append(self._departure(value, middle))
        level = max(0.0, min(self._last)) if len(self._last) == options.persist else 0.0
        if options.baseline == "past" or len(self._past) < options.window:
            self._past.append(value)
        if self._last[-1] < 0.5:
            self._onset = step
        now, usual = (format_value(options.metric, x) for x in (value, middle))
        when = f"over the first {len(self._past)}" if options.baseline == "first" else f"over {len(self._past)} before"
        return Reading(min(1.0, level), f"{options.metric} is {now}, {usual} {when}", self._onset, options.metric)

    def _departure(self, value: float, middle: float) -> float:
        """Distance from the baseline over what trips; below 1 is healthy."""
        options = self.options
        least = max(options.change, options.sigmas * _noise(self._past), 1e-12)
        up = (value - middle) / max(least, (options.factor - 1.0) * middle)
        down = (middle - value) / max(least, (1.0 - 1.0 / options.factor) * middle)
        return {"up": up, "down": down, "both": max(up, down)}[options.direction]


class ScissorsOptions(DetectorOptions):
    """Options of agreement that rises while something else gets worse."""

    agreement: str
    """Metric of how much completions agree with each other."""
    gain: Annotated[float, Field(gt=0)]
    """Rise of the agreement since the other was at its best, in shares."""
    metric: str
    """What gets worse meanwhile."""
    worse: Literal["up", "down"] = "down"
    """Which way that is."""
    change: Annotated[float, Field(gt=0)]
    """Share of its best value by which it got worse."""
    smooth: Annotated[int, Field(ge=1)] = 1
    """Values that a reading is the median of."""
    min_history: Annotated[int, Field(ge=0)] = 0
    """Readings before a best value counts: training's first steps are a regime of their own."""


@dataclass(slots=True)
class Scissors:
    """Trips when completions agree more and more while what they agree on gets worse.

    Agreement that rises is what training is for; entropy that rises, or an anchor that is left, may be exploration.
    Both at once mean that agreement is had more cheaply than by being right (arXiv 2505.21444, section 4).
    """

    options: ScissorsOptions
    _metric: deque[float] = field(init=False)
    _agreement: deque[float] = field(init=False)
    _last: deque[float] = field(init=False)
    _best: tuple[float, float, int] | None = None
    """The metric at its best, the agreement then, and the step."""
    _num_readings: int = 0

    def __post_init__(self) -> None:
        self._metric, self._agreement = (deque(maxlen=self.options.smooth) for _ in range(2))
        self._last = deque(maxlen=self.options.persist)

    def update(self, row: Row, step: int) -> Reading | None:
        options = self.options
        value, agreement = row.get(options.metric), row.get(options.agreement)
        if value is None or agreement is None:
            return None
        self._metric.append(value)
        self._agreement.append(agreement)
        self._num_readings += 1
        if len(self._metric) < options.smooth or self._num_readings <= options.min_history:
            return None
        now, agreed = statistics.median(self._metric), statistics.median(self._agreement)
        sign = 1.0 if options.worse == "up" else -1.0
        if self._best is None or sign * (now - self._best[0]) <= 0:
            self._best = (now, agreed, step)
        best, agreed_then, at = self._best
        lost, gained = sign * (now - best), agreed - agreed_then
        self._last.append(min(_level(lost, options.change * abs(best)), _level(gained, options.gain)))
        level = min(self._last) if len(self._last) == options.persist else 0.0
        shown = [format_value(options.agreement, x) for x in (agreed_then, agreed)]
        then_now = [format_value(options.metric, x) for x in (best, now)]
        reason = (
            f"since step {at} {options.agreement} went from {shown[0]} to {shown[1]} "
            f"while {options.metric} went from {then_now[0]} to {then_now[1]}"
        )
        return Reading(level, reason, at, options.metric)


def _noise(values: Sequence[float]) -> float:
    """Robust standard deviation from one value to the next, which a trend leaves small."""
    steps = [abs(after - before) for before, after in pairwise(values)]
    return TO_SIGMA * statistics.median(steps) / math.sqrt(2.0) if steps else 0.0


def _level(amount: float, threshold: float) -> float:
    """`amount` over `threshold` in [0, 1]."""
    return min(1.0, max(0.0, amount / threshold)) if threshold > 0 else float(amount > 0)
