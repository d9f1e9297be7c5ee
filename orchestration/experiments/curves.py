"""What runs measured, per step, and its mean over seeds with a 95% band. Reads finished and unfinished runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.metrics import METRICS, read_metrics

_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5% points of Student's t for 1 to 30 degrees of freedom."""
_Z = 1.959964


class Band(NamedTuple):
    """A mean over seeds and its 95% t-interval."""

    mean: float
    low: float | None
    """None with one seed: nothing is known of the spread then."""
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class RunCurves:
    """One run."""

    arm: str
    seed: int
    series: Mapping[str, Mapping[int, float]]
    """Step -> value, by metric; an evaluation's step is the number of steps done before it."""
    evaluations: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Rows of `audit/eval.jsonl` with scores, by step."""

    def first_and_last(self, metric: str) -> tuple[float, float] | None:
        """Values at the first and the last step that has one; None with fewer than two."""
        values = self.series.get(metric, {})
        return None if len(values) < 2 else (values[min(values)], values[max(values)])


def t_quantile(degrees: int) -> float:
    """97.5% point of Student's t; beyond 30 degrees of freedom by Fisher's expansion. ValueError below 1.

    Example:
        >>> t_quantile(2), round(t_quantile(60), 3)
        (4.303, 2.0)
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: want at least 1")
    if degrees <= len(_T):
        return _T[degrees - 1]
    return _Z + (_Z**3 + _Z) / (4 * degrees) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * degrees**2)


def band(values: Sequence[float]) -> Band:
    """Mean of one value per seed with its 95% t-interval: mean +- t * s / sqrt(n). Raises ValueError without values.

    Example:
        >>> band([1.0])
        Band(mean=1.0, low=None, high=None, count=1)
    """
    count = len(values)
    if not count:
        raise ValueError("a band over no seeds")
    mean = math.fsum(values) / count
    if count == 1:
        return Band(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return Band(mean, mean - half, mean + half, count)


def arm_curve(runs: Sequence[RunCurves], metric: str) -> dict[int, Band]:
    """Per step that every one of an arm's runs has measured, so that all means are over the same seeds."""
    series = [run.series.get(metric, {}) for run in runs]
    common = set.intersection(*map(set, series)) if series else set()
    return {step: band([one[step] for one in series]) for step in sorted(common)}


def read_run(arm: str, seed: int, path: Path) -> RunCurves:
    """Everything a run has measured so far."""
    table = read_metrics(path)
    series: dict[str, dict[int, float]] = {}
    steps = table["step"].to_pylist() if "step" in table.column_names else []
    for name in METRICS:
        if name in table.column_names:
            pairs = zip(steps, table[name].to_pylist(), strict=True)
            series[name] = {step: value for step, value in pairs if value is not None}
    rows = current_rows(read_rows(path / "audit" / "eval.jsonl"))
    scored = {step: group[-1] for step, group in rows.items() if "sources" in group[-1]}
    return RunCurves(arm, seed, series, scored)
