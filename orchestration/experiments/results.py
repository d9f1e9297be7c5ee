"""From an experiment's run directories to its results; a run that is not done is left out."""

from __future__ import annotations

from collections.abc import Sequence

from configs.experiment import ExperimentConfig
from orchestration.experiments.arms import ArmRun
from orchestration.experiments.curves import RunCurves, read_run
from orchestration.experiments.figures import decide
from orchestration.experiments.matrix import Cell, cells_of
from orchestration.experiments.publish import commit, config_hash
from orchestration.experiments.report import Provenance, Results


def gather(
    name: str,
    experiment: ExperimentConfig,
    runs: Sequence[ArmRun],
    *,
    command: str,
    machine: str,
    others: Sequence[Cell] = (),
) -> Results:
    """Read what is done.

    Args:
        name: of the experiment.
        experiment: its file.
        runs: all of them.
        command: that made it.
        machine: in words.
        others: cells measured at other temperatures.
    """
    done = [run for run in runs if run.standing() == "done"]
    curves: dict[str, list[RunCurves]] = {arm: [] for arm in experiment.arms}
    for run in done:
        curves[run.arm].append(read_run(run.arm, run.seed, run.path))
    held = {arm: found for arm, found in curves.items() if found}
    is_whole = len(done) == len(runs)
    figures = decide(experiment.figures, held) if is_whole else dict.fromkeys(experiment.figures)
    every = [one for found in held.values() for one in found]
    cells = [*cells_of(every, experiment.evaluation.temperatures[0]), *others]
    origin = Provenance(name, command, commit(), config_hash(runs), machine)
    return Results(experiment, held, figures, cells, origin)
