"""`quorum stop`: end a submitted run, with a checkpoint."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestration.cli.job_options import Address
from quorum.errors import ResourceError

LOOK_SECONDS = 0.5


def stop(
    name: Annotated[str, typer.Argument(help="A submitted run.")],
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait until it has ended.")
    ] = 600.0,
    address: Address = None,
) -> None:
    """End a submitted run: its driver finishes the update it is in, saves a checkpoint and ends; it is not retried.

    `quorum resume` goes on with it. Exit code 4 when it has not ended in time: the order stands.
    """
    from orchestration.jobs.client import Jobs

    jobs = Jobs(address)
    job = jobs.of_name(name)[-1]
    if not job.is_live:
        print(f"run {name} {job.end} already (exit code {job.exit_code})")
        return
    jobs.stop(job.id)
    began = time.monotonic()
    while (job := jobs.job(job.id)).is_live:
        if time.monotonic() - began > wait:
            raise ResourceError(
                f"run {name} has not ended {wait:g} s after it was told to; the order stands, Ray kills it in the "
                f"end: see `quorum logs {name}`"
            )
        time.sleep(LOOK_SECONDS)
    print(f"run {name} {job.end} after {time.monotonic() - began:.1f} s; go on with it: quorum resume {name}")
