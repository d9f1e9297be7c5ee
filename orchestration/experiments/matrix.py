"""Trained on, tested on: every arm's final model, and the base, on every evaluation set at every temperature."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.experiment import ExperimentConfig
from configs.schema import RunConfig
from orchestration.evaluate_model import measure
from orchestration.experiments.arms import ArmRun
from orchestration.experiments.curves import RunCurves
from orchestration.run_dir import read_info
from orchestration.watch.jsonl import current_rows, read_rows

BASE = "base"


class Cell(NamedTuple):
    """One model on one set."""

    arm: str
    """"base" for the model that all began with."""
    seed: int
    temperature: float
    source: str
    """Evaluation set, by the name of its data."""
    average: float
    majority: float


def cells_of(curves: Sequence[RunCurves], temperature: float) -> list[Cell]:
    """Cells at the temperature that was used while training: each run's first and last evaluation."""
    cells = []
    for run in curves:
        if len(run.evaluations) < 2:
            continue
        first, last = min(run.evaluations), max(run.evaluations)
        cells += _cells(BASE, run.seed, temperature, run.evaluations[first])
        cells += _cells(run.arm, run.seed, temperature, run.evaluations[last])
    return list(dict.fromkeys(cells))  # every arm of a seed drew the same base


def measure_others(
    experiment: ExperimentConfig, runs: Sequence[ArmRun], root: Path, say: Callable[[str], None]
) -> list[Cell]:
    """Cells at the other temperatures: base and final models, each measured once and then read again.

    Args:
        experiment: with its manifest.
        runs: those that are done.
        root: the experiment's directory.
        say: told of each measurement.

    Raises:
        DataError: no evaluation row has a reference.
        StageError: a stage failed.
    """
    others = experiment.evaluation.temperatures[1:]
    if not others or not runs:
        return []
    cells, shown = [], [f"{value:g}" for value in others]
    of_base = {run.seed: run for run in reversed(runs)}
    wanted = [(BASE, seed, run.config, Path(run.config.model.path)) for seed, run in sorted(of_base.items())]
    wanted += [(run.arm, run.seed, run.config, run.path / "model") for run in runs]
    for arm, seed, config, model in wanted:
        path = root / "measured" / arm / f"seed-{seed}-n{experiment.evaluation.completions}-t{'-'.join(shown)}"
        if not _is_measured(path):
            say(f"{arm} seed {seed}: measured at temperature {', '.join(shown)}")
            measure(_config(config, model, path), others, experiment.evaluation.completions)
        rows = current_rows(read_rows(path / "audit" / "eval.jsonl"))
        for index, temperature in enumerate(others):
            for row in rows.get(index, [])[-1:]:
                cells += _cells(arm, seed, temperature, row)
    return cells


def matrix_rows(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: models down, sets and temperatures across; means over seeds, avg@n / maj@n in percent."""
    columns = sorted({(cell.source, cell.temperature) for cell in cells})
    arms = sorted({cell.arm for cell in cells}, key=lambda arm: (arm != BASE, arm))
    rows = []
    for arm in arms:
        row = [arm]
        for source, temperature in columns:
            held = [c for c in cells if (c.arm, c.source, c.temperature) == (arm, source, temperature)]
            means = [sum(values) / len(held) for values in zip(*((c.average, c.majority) for c in held), strict=True)]
            row.append(" / ".join(f"{100 * mean:.1f}" for mean in means))
        rows.append(row)
    return ["trained as", *(f"{source}, t={temperature:g}" for source, temperature in columns)], rows


def _is_measured(path: Path) -> bool:
    """Whether a measurement is whole. What one left that was cut off is removed."""
    if not path.exists():
        return False
    if (path / "run.json").is_file() and read_info(path).state == "done":
        return True
    shutil.rmtree(path)
    return False


def _cells(arm: str, seed: int, temperature: float, row: Any) -> list[Cell]:
    return [
        Cell(arm, seed, temperature, name, figures["average_accuracy"][0], figures["majority_accuracy"][0])
        for name, figures in row.get("sources", {}).items()
    ]


def _config(config: RunConfig, model: Path, path: Path) -> RunConfig:
    """A run's configuration for another model in another directory: limits, voting and samplers as it was trained."""
    own = config.model if str(model) == config.model.path else config.model.model_copy(update={"path": str(model)})
    return config.model_copy(
        update={"model": own, "run": config.run.model_copy(update={"dir": str(path), "mode": "train"})}
    )
