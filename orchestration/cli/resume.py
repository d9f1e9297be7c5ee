"""`quorum resume`: go on with a submitted run."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.cli.job_options import Address, DriverCpus, NoWait, Retries


def resume(
    name: Annotated[str, typer.Argument(help="A submitted run that is over: stopped, failed, or lost with its node.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value; operational fields, as for `train --resume`.")
    ] = None,
    address: Address = None,
    retries: Retries = 3,
    no_wait: NoWait = False,
    working_dir: Annotated[
        str | None,
        typer.Option(
            "--working-dir",
            help="Uploaded for all nodes; `none` where they have everything.",
        ),
    ] = None,
    driver_cpus: DriverCpus = 0.0,
) -> None:
    """Submit a run again, from its last checkpoint; the groups finished since then are taken from its log.

    Where a directory was uploaded for it, the current one is uploaded if it holds the run's CONFIG file; otherwise say
    which with --working-dir. Where none was, none is.

    A cluster that was started anew knows no names: `quorum submit CONFIG run.dir=... --resume` goes on there.
    """
    from orchestration.cli.submit import followed, next_steps, uploaded
    from orchestration.jobs.client import Jobs
    from orchestration.jobs.request import directory_to_upload, of_job

    jobs = Jobs(address)
    before = jobs.of_name(name)[-1]
    jobs.require_over(before)
    chosen = uploaded(working_dir) if working_dir is not None else directory_to_upload(before)
    wanted = of_job(before, overrides or [], retries=retries, working_dir=chosen, driver_cpus=driver_cpus)
    print(f"uploads {chosen.resolve()}" if chosen is not None else "uploads nothing", flush=True)
    job = jobs.submit(wanted)
    print(f"submitted {job.id}; goes on with {job.run}", flush=True)
    if no_wait:
        print(next_steps(job))
        return
    raise typer.Exit(followed(jobs, job, wanted))
