"""`quorum resume`: go on with a submitted run."""

from __future__ import annotations

from typing import Annotated

import typer


def resume(
    name: Annotated[str, typer.Argument(help="A submitted run that is over: stopped, failed, or lost with its node.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value; operational fields, as for `train --resume`.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="http://HEAD:8265 of the cluster; by default RAY_ADDRESS.")
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="How often a driver that died goes on from its last checkpoint.")
    ] = 3,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the job is submitted.")] = False,
    working_dir: Annotated[
        str, typer.Option("--working-dir", help="Uploaded for all nodes; `none` where they have everything.")
    ] = ".",
    driver_cpus: Annotated[
        float, typer.Option("--driver-cpus", min=0, help="For the driver: with any it may be on every node.")
    ] = 0.0,
) -> None:
    """Submit a run again, from its last checkpoint; the groups finished since then are taken from its log.

    A cluster that was started anew knows no names: `quorum submit CONFIG run.dir=... --resume` goes on there.
    """
    from orchestration.cli.submit import followed, next_steps, uploaded
    from orchestration.jobs.client import Jobs
    from orchestration.jobs.request import of_job

    jobs = Jobs(address)
    before = jobs.of_name(name)[-1]
    wanted = of_job(
        before, overrides or [], retries=retries, working_dir=uploaded(working_dir), driver_cpus=driver_cpus
    )
    job = jobs.submit(wanted)
    print(f"submitted {job.id}; goes on with {job.run}", flush=True)
    if no_wait:
        print(next_steps(job))
        return
    raise typer.Exit(followed(jobs, job, wanted))
