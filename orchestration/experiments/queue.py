"""An experiment's runs as jobs of a cluster, so many at once. How each stands is the cluster's to say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.experiment import ExperimentConfig
from orchestration.experiments.arms import ArmRun
from orchestration.experiments.runner import Outcome
from orchestration.jobs.client import Job, Jobs
from orchestration.jobs.request import of_config
from quorum.errors import QuorumError, StageError

LOOK_SECONDS = 5.0


def run_on_cluster(
    name: str,
    experiment: ExperimentConfig,
    runs: Sequence[ArmRun],
    jobs: Jobs,
    say: Callable[[str], None],
    *,
    at_once: int,
    working_dir: Path | None,
) -> list[Outcome]:
    """Submit every run that is not done, `at_once` at a time, and wait for all; jobs that are under way are waited for.

    consumes: runs.  waits for: jobs, each under its run's own deadlines.  unblocked by: a job's end.
    produces: outcomes, in the runs' order.

    Args:
        name: of the experiment; jobs are called NAME-ARM-seed-S.
        experiment: its file.
        runs: with directories that all nodes share.
        jobs: of the cluster.
        say: told of each beginning and end.
        at_once: jobs that run together.
        working_dir: uploaded for each; None where the nodes have everything.

    Raises:
        ConfigError: a run cannot be submitted as it is.
        ResourceError: the cluster does not answer.
    """
    live = {job.run: job for job in jobs.all() if job.is_live}
    outcomes: dict[int, Outcome] = {}
    waiting = []
    for index, run in enumerate(runs):
        if str(run.path) in live or run.standing() != "done":
            waiting.append(index)
        else:
            outcomes[index] = Outcome(run)
    going: dict[int, tuple[Job, float]] = {}
    while waiting or going:
        while waiting and len(going) < at_once:
            index = waiting.pop(0)
            run = runs[index]
            job = live.get(str(run.path)) or submit(name, experiment, run, jobs, working_dir)
            going[index] = job, time.monotonic()
            say(f"{run.name}: {'is' if str(run.path) in live else 'submitted as'} job {job.id}")
        for index, (job, began) in list(going.items()):
            now = jobs.job(job.id)
            if now.is_live:
                continue
            del going[index]
            error = None if now.exit_code == 0 else _failure(now)
            say(f"{runs[index].name}: {now.state}, exit code {now.exit_code}")
            outcomes[index] = Outcome(runs[index], error, time.monotonic() - began)
        if going:
            time.sleep(LOOK_SECONDS)
    return [outcomes[index] for index in range(len(runs))]


def submit(name: str, experiment: ExperimentConfig, run: ArmRun, jobs: Jobs, working_dir: Path | None) -> Job:
    """Start one run as a job, or go on with it."""
    wanted = of_config(
        experiment.base.preset,
        experiment.overrides_of(run.arm, run.seed, run.path),
        name=f"{name}-{run.arm}-seed-{run.seed}",
        retries=3,
        working_dir=working_dir,
        driver_cpus=0.0,
        resume=True,
    )
    return jobs.submit(wanted)


def _failure(job: Job) -> QuorumError:
    return StageError(
        f"job {job.id} {job.state}, exit code {job.exit_code}: {job.message}; see `quorum logs {job.name}`"
    )
