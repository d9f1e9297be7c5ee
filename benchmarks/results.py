"""What a bench measured: figures with the repeats behind them, as a table, a RESULT line and a stored baseline."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.cli.result import SCHEMA, machine, result_line, versions

GIT_SECONDS = 10.0


class Median(float):
    """The median of repeats, which remembers them.

    Example:
        >>> Median([3.0, 1.0, 2.0]), Median([3.0, 1.0, 2.0]).values
        (2.0, (3.0, 1.0, 2.0))
    """

    values: tuple[float, ...]
    """In the order in which they were measured."""

    def __new__(cls, values: Iterable[float]) -> Median:
        kept = tuple(map(float, values))
        made = super().__new__(cls, statistics.median(kept))
        made.values = kept
        return made


@dataclass(frozen=True)
class BenchResult:
    """One call of `quorum bench`. Its text is the RESULT line."""

    bench: str
    figures: Mapping[str, object]
    """By name, the most important first; a Median where it was repeated."""
    seed: int
    repeats: int
    workload: Mapping[str, object] = field(default_factory=dict)
    """What was measured, as far as the command's options decide it: figures of another one do not compare."""

    def __str__(self) -> str:
        return result_line(self.bench, {**self.workload, **self.figures}, seed=self.seed, repeats=self.repeats)

    def document(self) -> dict[str, Any]:
        """What `--json` stores and `--against` reads."""
        return {
            "bench": self.bench,
            "schema": SCHEMA,
            "workload": {**self.workload, "seed": self.seed},
            "machine": machine(),
            "versions": versions(),
            "revision": revision(),
            "repeats": self.repeats,
            "figures": {name: float(v) if isinstance(v, float) else v for name, v in self.figures.items()},
            "spread": {
                name: {"lowest": min(v.values), "highest": max(v.values), "values": list(v.values)}
                for name, v in self.figures.items()
                if isinstance(v, Median)
            },
        }

    def table(self) -> list[str]:
        """Every figure: its value, and over the repeats the lowest and the highest."""
        width = max(map(len, self.figures), default=0)
        lines = [f"{'figure':{width}}  {'median':>12}  {'lowest':>12}  {'highest':>12}"]
        for name, value in self.figures.items():
            spread = [min(value.values), max(value.values)] if isinstance(value, Median) else []
            cells = (f"{shown(cell):>12}" for cell in [value, *spread])
            lines.append(f"{name:{width}}  " + "  ".join(cells))
        return lines


def shown(value: object) -> str:
    """A figure for a table."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def write_result(path: Path, result: BenchResult) -> None:
    """Store a result. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result.document(), indent=2) + "\n", encoding="utf-8")


def revision() -> str:
    """Commit of the code that ran, with `+` when files differ from it; empty outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
    )
    return done.stdout.strip()
