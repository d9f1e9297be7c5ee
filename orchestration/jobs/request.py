"""What a run's submission consists of, checked on the client before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.load import preset_names
from configs.overrides import apply_override, check_overrides
from configs.schema import DeadlineSection
from configs.secrets import refuse_secrets
from orchestration.jobs.client import Job, Submission
from orchestration.jobs.names import check_name, name_of_dir
from orchestration.registries import load_run_config
from quorum.errors import ConfigError

STOP_DEADLINES = ("learn_seconds", "save_seconds", "stop_seconds")
"""That a driver told to stop may use up. The first bounds a micro-batch and not the update that it finishes: what is
allowed for the update is a guess, and one that takes longer is cut off and done again."""
STOP_SPARE_SECONDS = 60
"""Beyond them, before Ray kills the driver."""


def of_config(
    config: str,
    overrides: Sequence[str],
    *,
    name: str | None,
    retries: int,
    working_dir: Path | None,
    driver_cpus: float,
    resume: bool = False,
) -> Submission:
    """The submission of a new run.

    Args:
        config: preset name or YAML file; a file must be in the working directory, or absolute without one.
        overrides: `section.field=value`.
        name: of the run; None takes the last part of run.dir.
        retries: how often a driver that died is started again.
        working_dir: uploaded to every node; None uploads nothing.
        driver_cpus: see `Submission`.
        resume: go on with the run that the directory holds, if any, with these overrides and its own configuration.

    Raises:
        ConfigError: the configuration, the name or a path cannot be used on a cluster, or a value holds a secret.
    """
    resolved = load_run_config(config, overrides)
    check_run_dir(resolved.run.dir)
    words = [_config_on_the_cluster(config, working_dir), *overrides]
    if resolved.cluster.address == "local":
        words.append("cluster.address=auto")  # a job's driver belongs to the cluster that it was submitted to
    refuse_secrets({"configuration": resolved.model_dump(mode="json"), "command line": words, "--name": name or ""})
    deadlines = _stop_deadlines(resolved.deadlines)
    return Submission(
        name=check_name(name or name_of_dir(resolved.run.dir)),
        run=resolved.run.dir,
        words=tuple(words),
        retries=retries,
        resume=resume,
        working_dir=None if working_dir is None else str(working_dir),
        env=_stop_environment(deadlines),
        deadlines=deadlines,
        driver_cpus=driver_cpus,
    )


def of_job(
    job: Job, overrides: Sequence[str], *, retries: int, working_dir: Path | None, driver_cpus: float
) -> Submission:
    """The submission that goes on with the run of an earlier one; see `of_config`.

    Overrides are checked against the schema; against the run's own configuration its driver does it.
    """
    refuse_secrets({"command line": list(overrides)})
    check_overrides(overrides)
    deadlines = _deadlines_of_job(job, overrides)
    return Submission(
        name=job.name,
        run=job.run,
        words=job.words,
        retries=retries,
        again=True,
        overrides=tuple(overrides),
        working_dir=None if working_dir is None else str(working_dir),
        env=_stop_environment(deadlines),
        deadlines=deadlines,
        driver_cpus=driver_cpus,
    )


def directory_to_upload(job: Job) -> Path | None:
    """What to upload for the run of an earlier submission where the user does not say; None uploads nothing.

    Raises:
        ConfigError: a directory was uploaded then, and the current one is not that: it would run other code.
    """
    if not job.working_dir:
        return None
    if job.words and Path(job.words[0]).is_file():
        return Path()
    raise ConfigError(
        f"run {job.name!r} was submitted with a directory that was uploaded, and the current one does not hold its "
        f"configuration file ({job.words[0] if job.words else 'unknown'}): give --working-dir DIRECTORY to upload, or "
        "--working-dir none where the nodes have everything"
    )


def check_run_dir(run_dir: str) -> None:
    """A submitted run's directory is a path that means the same on every node. Raises ConfigError."""
    if "://" in run_dir:
        raise ConfigError(
            f"run.dir is {run_dir}: object stores cannot hold a run, which needs locks and renames; give a path "
            "mounted on all nodes (NFS, Lustre, a ReadWriteMany volume)"
        )
    if not run_dir.startswith("/"):
        raise ConfigError(
            f"run.dir is {run_dir}: a submitted run's directory must be a path mounted on all nodes, written in full "
            "(run.dir=/shared/runs/NAME): a relative one would be in the job's temporary copy of the working directory"
        )


def _stop_deadlines(deadlines: DeadlineSection) -> dict[str, float]:
    return {name: getattr(deadlines, name) for name in STOP_DEADLINES}


def _deadlines_of_job(job: Job, overrides: Sequence[str]) -> dict[str, float]:
    """Those of the run, which the client may not see: as they were submitted, then overridden."""
    tree: dict[str, Any] = {"deadlines": dict(job.deadlines)}
    for word in overrides:
        if word.lstrip().startswith("deadlines"):
            apply_override(tree, word)
    return _stop_deadlines(DeadlineSection.model_validate(tree["deadlines"]))


def _stop_environment(deadlines: Mapping[str, float]) -> dict[str, str]:
    """How long Ray lets a driver that was told to stop finish its update, save, and end its actors."""
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(int(sum(deadlines.values()) + STOP_SPARE_SECONDS))}


def _config_on_the_cluster(config: str, working_dir: Path | None) -> str:
    """CONFIG as the driver is to be told: presets by name, files below the working directory relative to it."""
    path = Path(config)
    if config in preset_names() and not path.is_file():
        return config
    if working_dir is None:
        if path.is_absolute():
            return config
        raise ConfigError(
            f"{config}: without a working directory the nodes read the configuration themselves; give its full path on "
            "storage that they share, or a preset's name"
        )
    try:
        return str(path.resolve().relative_to(working_dir.resolve()))
    except ValueError as exc:
        raise ConfigError(
            f"{config} is not in the working directory {working_dir} that is uploaded: move it there, or give "
            "--working-dir"
        ) from exc
