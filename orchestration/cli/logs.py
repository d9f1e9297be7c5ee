"""`quorum logs`: what a submitted run has written."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestration.cli.job_options import Address


def logs(
    name: Annotated[str, typer.Argument(help="A submitted run.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends, with its exit code.")] = False,
    address: Address = None,
) -> None:
    """Print the log of a run's last submission: its driver's output and what became of drivers that died."""
    from orchestration.cli.submit import followed
    from orchestration.jobs.client import Jobs

    jobs = Jobs(address)
    job = jobs.of_name(name)[-1]
    if follow:
        raise typer.Exit(followed(jobs, job, None))
    sys.stdout.write(jobs.log(job.id))
