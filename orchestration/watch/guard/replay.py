"""The guard over stored metrics: a run's, or curves from anywhere. Accuracy is read to judge it, and never by it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Plugin
from orchestration.watch.guard.guard import Guard
from orchestration.watch.guard.registry import DETECTORS
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.metrics import FILE_NAME, METRICS, check_names
from quorum.errors import ConfigError, DataError

ACCURACY = "eval/average_accuracy"
LOST = 0.1
"""Share of its peak that accuracy must lose to count as lost."""
Rows = list[tuple[int, dict[str, float]]]
"""(step, metrics) in the order in which they are given to the guard."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What the guard made of a sequence of metrics."""

    num_steps: int
    alarm_step: int | None
    reason: str
    first_trips: Mapping[str, int]
    """Step of each detector's first trip; those that never did are left out."""
    lost_step: float | None
    """Step at which accuracy had lost a tenth of its peak, between evaluations linearly; None: never, or unknown."""
    peak_step: int | None
    """Of the accuracy's peak; None without any."""

    @property
    def is_false_alarm(self) -> bool | None:
        """An alarm though accuracy never lost a tenth of its peak; None where accuracy is not known."""
        if self.peak_step is None:
            return None
        return self.alarm_step is not None and self.lost_step is None

    def lead(self, step: int | None) -> float | None:
        """Steps from `step` until accuracy was lost; negative: too late. None where either is not there."""
        return None if step is None or self.lost_step is None else self.lost_step - step

    def figures(self) -> dict[str, object]:
        """The RESULT line's keys."""
        return {
            "num_steps": self.num_steps,
            "alarm_step": self.alarm_step,
            "lost_step": self.lost_step,
            "peak_step": self.peak_step,
            "lead_steps": self.lead(self.alarm_step),
            "is_false_alarm": self.is_false_alarm,
            "first_trips": dict(self.first_trips),
            "detector_lead_steps": {name: self.lead(step) for name, step in self.first_trips.items()},
        }

    def table(self) -> str:
        """A line per detector, then the guard's own."""
        width = max(map(len, DETECTORS))
        lines = [f"{'detector':{width}}  first trip  lead in steps"]
        for name in sorted(self.first_trips, key=lambda name: (self.first_trips[name], name)):
            lines.append(f"{name:{width}}  {self.first_trips[name]:10,}  {_shown(self.lead(self.first_trips[name]))}")
        if not self.first_trips:
            lines.append("none tripped")
        if self.peak_step is not None:
            lost = (
                "never lost a tenth of it" if self.lost_step is None else f"lost a tenth by step {self.lost_step:.0f}"
            )
            lines.append(f"accuracy: peak at step {self.peak_step}, {lost}")
        alarm = "no alarm" if self.alarm_step is None else f"alarm at step {self.alarm_step}: {self.reason}"
        return "\n".join([*lines, alarm])


def replay(rows: Rows, detectors: Sequence[Plugin] = (), alarm_at: float = 1.0) -> Replay:
    """Give the rows to a fresh guard.

    Args:
        rows: in order; accuracy in them is kept from the guard.
        detectors: of the configuration; none: all, as they ship.
        alarm_at: score that raises the alarm.
    """
    guard = Guard(detectors, alarm_at)
    alarm_step, reason = None, ""
    first: dict[str, int] = {}
    for step, row in rows:
        if not any(name != ACCURACY for name in row):
            continue
        verdict = guard.update(row, step)
        for name in verdict.tripped:
            first.setdefault(name, step)
        if verdict.is_new and alarm_step is None:
            alarm_step, reason = step, verdict.reason
    accuracy = sorted((step, row[ACCURACY]) for step, row in rows if ACCURACY in row)
    peak = max(accuracy, key=lambda point: (point[1], -point[0]), default=None)
    num_steps = 1 + max((step for step, _ in rows), default=-1)
    return Replay(num_steps, alarm_step, reason, first, lost_at(accuracy), None if peak is None else peak[0])


def lost_at(accuracy: Sequence[tuple[int, float]], share: float = LOST) -> float | None:
    """Step at which a curve has lost a share of its highest value, after it, and stays below at its next point.

    Linear between its points; one low evaluation between others is noise.

    Example:
        >>> lost_at([(0, 0.5), (10, 1.0), (20, 0.8)])
        15.0
    """
    if not accuracy:
        return None
    peak = max(range(len(accuracy)), key=lambda index: (accuracy[index][1], -index))
    bound = accuracy[peak][1] * (1.0 - share)
    for index in range(peak, len(accuracy) - 1):
        (before, high), (after, low) = accuracy[index : index + 2]
        if all(value <= bound for _, value in accuracy[index + 1 : index + 3]):
            return after if high <= bound else before + (after - before) * (high - bound) / (high - low)
    return None


def read_source(source: Path, columns: Mapping[str, str]) -> Rows:
    """Rows of a run directory, a metrics.jsonl, or a CSV or JSONL file of curves.

    Args:
        source: what to read. Curves have a column `step`; one that has fewer points than steps is read linearly
            between them, but for eval/* metrics, which an evaluation has or has not.
        columns: registered metric by the name that the file has for it; columns that are registered names need none.

    Raises:
        DataError: nothing readable is there.
        ConfigError: a metric is not registered.
    """
    try:
        check_names(columns.values())
    except ValueError as error:
        raise ConfigError(f"--column: {error}") from error
    if source.is_dir():
        return _of_run(source)
    if not source.is_file():
        raise DataError(f"no metrics at {source}: expected a run directory, or a file of .jsonl or .csv")
    points = _csv(source) if source.suffix == ".csv" else [dict(row) for row in read_rows(source)]
    if any("incarnation" in row for row in points):
        return _in_order(points)
    curves: dict[str, dict[int, float]] = {}
    for row in points:
        for name, value in row.items():
            metric = columns.get(name, name)
            if metric in METRICS and "step" in row and value is not None and value != "":
                curves.setdefault(metric, {})[int(row["step"])] = float(value)
    if not curves:
        raise DataError(f"{source} has no column of a registered metric; name them with --column METRIC=COLUMN")
    return _by_step({name: curve if name.startswith("eval/") else _every_step(curve) for name, curve in curves.items()})


def _of_run(path: Path) -> Rows:
    """A run's rows as its guard saw them, accuracies joined from the audit."""
    rows = rows_of_run(path)
    if not rows:
        raise DataError(f"{path} has no {FILE_NAME}: it is no run, or none that made a step")
    scored = current_rows(read_rows(path / "audit" / "eval.jsonl"))
    known = {step for step, row in rows if ACCURACY in row}
    late = [(step, {ACCURACY: found[-1][ACCURACY]}) for step, found in scored.items() if ACCURACY in found[-1]]
    return rows + [(step, row) for step, row in late if step not in known]


def rows_of_run(path: Path, branch: int | None = None) -> Rows:
    """Current rows of a run's metrics.jsonl, in step order and within a step as they were written.

    Args:
        path: run directory; one without the file has no rows.
        branch: the newest to read; None reads all.
    """
    rows = read_rows(path / FILE_NAME)
    return _in_order([row for row in rows if branch is None or row.get("branch", 0) <= branch])


def health_by_step(rows: Rows) -> dict[int, float]:
    """eval/health by the steps done before each evaluation."""
    return {step: row["eval/health"] for step, row in rows if "eval/health" in row}


def _in_order(rows: Sequence[Mapping[str, Any]]) -> Rows:
    return [(step, _numbers(row)) for step, found in current_rows(rows).items() for row in found]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(row[name]) for name in METRICS.keys() & row.keys() if row[name] is not None}


def _csv(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(line for line in file if not line.startswith("#")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _every_step(curve: Mapping[int, float]) -> dict[int, float]:
    steps = sorted(curve)
    filled = dict(curve)
    for before, after in zip(steps, steps[1:], strict=False):
        for step in range(before + 1, after):
            filled[step] = curve[before] + (curve[after] - curve[before]) * (step - before) / (after - before)
    return filled


def _by_step(curves: Mapping[str, Mapping[int, float]]) -> Rows:
    steps = sorted({step for curve in curves.values() for step in curve})
    return [(step, {name: curve[step] for name, curve in curves.items() if step in curve}) for step in steps]


def _shown(lead: float | None) -> str:
    return "" if lead is None else f"{lead:+,.0f}"


def pick(run: Path) -> list[tuple[int, float]]:
    """Evaluated steps of a run with their eval/health, the best first; the earlier one wins a tie.

    Raises:
        DataError: no evaluation of it has one.
    """
    found = health_by_step(rows_of_run(run))
    if not found:
        raise DataError(f"no evaluation of {run} has eval/health: set evaluation.data and evaluation.every_steps")
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))
