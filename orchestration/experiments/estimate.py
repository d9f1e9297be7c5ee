"""How long an experiment takes, by the steps that its runs have measured so far."""

from __future__ import annotations

from collections.abc import Sequence

from orchestration.experiments.arms import ArmRun
from orchestration.watch.metrics import read_metrics


def seconds_per_step(runs: Sequence[ArmRun]) -> float | None:
    """Mean over all measured steps; None before there is one."""
    seconds: list[float] = []
    for run in runs:
        if (run.path / "metrics.jsonl").is_file():
            table = read_metrics(run.path)
            if "time/step_seconds" in table.column_names:
                seconds += [value for value in table["time/step_seconds"].to_pylist() if value is not None]
    return sum(seconds) / len(seconds) if seconds else None
