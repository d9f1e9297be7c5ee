"""`quorum submit`: a run as a job of a Ray cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.job_options import Address, DriverCpus, NoWait, Retries

if TYPE_CHECKING:
    from orchestration.jobs.client import Job, Jobs, Submission

NO_UPLOAD = "none"


def submit(
    config: Annotated[str, typer.Argument(help="Preset name, or YAML file in the working directory.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value; run.dir must be a path that all nodes share.")
    ] = None,
    address: Address = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the run; by default its directory's.")] = None,
    retries: Retries = 3,
    no_wait: NoWait = False,
    working_dir: Annotated[
        str, typer.Option("--working-dir", help="Uploaded for all nodes; `none` where they have everything.")
    ] = ".",
    driver_cpus: DriverCpus = 0.0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in run.dir if there is one; CONFIG is not read then."),
    ] = False,
) -> None:
    """Submit a run to a Ray cluster, show its log and end with its exit code. Ctrl-C leaves it running.

    A driver that is killed or fails (exit codes 1 and 5) is resumed from the last checkpoint, at most --retries times;
    a job that is lost with its node is submitted again while this command waits, as often. Ray's token and all
    secrets come from the environment.
    """
    from orchestration.jobs.client import Jobs
    from orchestration.jobs.request import of_config

    wanted = of_config(
        config,
        overrides or [],
        name=name,
        retries=retries,
        working_dir=uploaded(working_dir),
        driver_cpus=driver_cpus,
        resume=resume,
    )
    jobs = Jobs(address)
    job = jobs.submit(wanted)
    print(f"submitted {job.id}; run directory {job.run}", flush=True)
    if no_wait:
        print(next_steps(job))
        return
    raise typer.Exit(followed(jobs, job, wanted))


def uploaded(working_dir: str) -> Path | None:
    """The directory that --working-dir means."""
    from quorum.errors import ConfigError

    if working_dir == NO_UPLOAD:
        return None
    if not Path(working_dir).is_dir():
        raise ConfigError(f"--working-dir {working_dir} is no directory; give one, or `{NO_UPLOAD}` to upload nothing")
    return Path(working_dir)


def followed(jobs: Jobs, job: Job, resubmit: Submission | None) -> int:
    """Show a job's log to its end. Returns the run's exit code; 130 when Ctrl-C ended the showing."""
    from orchestration.jobs.follow import follow

    try:
        ended = follow(jobs, job, show, resubmit=resubmit)
    except KeyboardInterrupt:
        print(f"\nrun {job.name} goes on.\n{next_steps(job)}", file=sys.stderr)
        return 130
    print(f"run {ended.name} {ended.end}, exit code {ended.exit_code}", flush=True)
    if ended.state == "failed" and ended.code is None:
        print(ended.message, file=sys.stderr)
    return ended.exit_code


def show(text: str) -> None:
    """Print a part of a log as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


def next_steps(job: Job) -> str:
    """What to call to watch a run and to end it."""
    name = job.name
    return f"watch it: quorum logs {name} --follow; how it stands: quorum status {name}; end it: quorum stop {name}"
