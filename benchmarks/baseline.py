"""A result against a stored one: each figure in its better direction, a verdict past the tolerance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from benchmarks.results import shown
from orchestration.cli.result import SCHEMA
from quorum.errors import ConfigError, DataError


class Better(Enum):
    """In which direction a figure is better."""

    HIGHER = "higher"
    LOWER = "lower"


_DIRECTIONS: tuple[tuple[str, Better | None], ...] = (
    (r"^(trl|bare|broadcast|copy)_|^loop_per_second|_strict_step_seconds", None),
    (r"over_trl|over_loop", Better.HIGHER),
    (r"over_|rest_share|share_of_step|lost|excess|idle|wait", Better.LOWER),
    (r"per_second|gbps|linear_share|share_of|wire_share|saved", Better.HIGHER),
    (r"seconds|(^|_)ms(_|$)|mib", Better.LOWER),
)
"""The first pattern found in a figure's name decides. None, or no pattern: the other side of a comparison, whose speed
is not ours to judge, or a figure that says what was measured, not how well."""
_RATIOS = re.compile(r"^(?!.*(seconds|linear_share)).*(over_|share)")
"""Figures whose two sides were measured in one run: they mean something on another machine too. Not linear_share_N,
which falls where N samplers are more than the machine has cores."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its baseline."""

    name: str
    before: float
    now: float
    better: Better | None
    """None: shown, not judged."""
    tolerance: float
    """Share by which it may be worse."""

    @property
    def change(self) -> float:
        """Share by which it is larger than before; 0 where both are 0, infinite where only the baseline is."""
        if self.now == self.before:
            return 0.0
        return (self.now - self.before) / abs(self.before) if self.before else float("inf")

    @property
    def is_worse(self) -> bool:
        """Worse by more than the tolerance."""
        if self.better is None:
            return False
        worse_by = -self.change if self.better is Better.HIGHER else self.change
        return worse_by > self.tolerance

    @property
    def verdict(self) -> str:
        if self.better is None:
            return ""
        return f"WORSE ({self.better.value} is better)" if self.is_worse else "ok"


def direction(name: str) -> Better | None:
    """In which direction a figure of that name is better; None when neither is."""
    return next((better for pattern, better in _DIRECTIONS if re.search(pattern, name)), None)


def read_baseline(path: Path) -> dict[str, Any]:
    """A result that `--json` stored.

    Raises:
        DataError: it is not there, or is no such file.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise DataError(
            f"baseline {path} cannot be read ({exc}); store one with `quorum bench NAME --json FILE`"
        ) from exc
    if not isinstance(document, dict) or not {"bench", "workload", "machine", "figures"} <= document.keys():
        raise DataError(f"{path} is no stored bench result; store one with `quorum bench NAME --json {path}`")
    if document.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {document.get('schema')}, this version writes {SCHEMA}: store it again")
    return document


def check_workload(baseline: Mapping[str, Any], bench: str, workload: Mapping[str, object], path: Path) -> None:
    """Refuse a baseline of another bench or workload.

    Raises:
        ConfigError: names both.
    """
    if baseline["bench"] != bench:
        raise ConfigError(f"{path} is a result of bench {baseline['bench']}, this is {bench}: they do not compare")
    then = baseline["workload"]
    others = [
        f"{name} {then.get(name)!r} there, {workload.get(name)!r} here"
        for name in sorted({*then, *workload})
        if then.get(name) != workload.get(name)
    ]
    if others:
        raise ConfigError(f"{path} measured another workload: {'; '.join(others)}; give the same options")


def compare(baseline: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> list[Row]:
    """Every number that both have.

    Args:
        baseline: see `read_baseline`.
        now: `BenchResult.document` of the same workload.
        tolerance: share by which a figure may be worse. On another machine only ratios are judged, whose two sides were
            measured in one run.
    """
    is_elsewhere = baseline["machine"] != now["machine"]
    rows = []
    for name, before in baseline["figures"].items():
        value = now["figures"].get(name)
        if not _is_number(before) or not _is_number(value):
            continue
        judged = not is_elsewhere or _RATIOS.search(name)
        rows.append(Row(name, float(before), float(value), direction(name) if judged else None, tolerance))
    return rows


def describe(baseline: Mapping[str, Any], now: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """The comparison as lines, with what else differs between the two."""
    width = max((len(row.name) for row in rows), default=0)
    lines = [f"{'figure':{width}}  {'baseline':>12}  {'now':>12}  {'change':>8}  verdict"]
    for row in rows:
        cells = f"{shown(row.before):>12}  {shown(row.now):>12}  {row.change:>+8.1%}"
        lines.append(f"{row.name:{width}}  {cells}  {row.verdict}".rstrip())
    missing = sorted(set(baseline["figures"]) - set(now["figures"]))
    if missing:
        lines.append(f"in the baseline alone: {', '.join(missing)}")
    if baseline["machine"] != now["machine"]:
        lines.append(
            f"ANOTHER MACHINE: the baseline is of {baseline['machine']}, this is {now['machine']}; only ratios whose "
            "two sides were measured in one run are judged"
        )
    then = baseline.get("versions", {})
    changed = [f"{name} {then[name]} -> {v}" for name, v in now["versions"].items() if then.get(name, v) != v]
    if changed:
        lines.append(f"versions differ: {', '.join(changed)}")
    return lines


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
