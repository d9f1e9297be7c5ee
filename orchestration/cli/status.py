"""`quorum status`: the submitted runs of a cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.job_options import Address

if TYPE_CHECKING:
    from orchestration.jobs.client import Job


def status(
    name: Annotated[str | None, typer.Argument(help="A submitted run; left out: all.")] = None,
    address: Address = None,
) -> None:
    """Show how submitted runs stand: state, age, submissions, steps done and directory; of one run every submission."""
    from orchestration.jobs.client import Jobs

    jobs = Jobs(address)
    if name is None:
        latest = {job.name: job for job in jobs.all()}
        print(table([latest[found] for found in sorted(latest)]) if latest else f"nothing submitted to {jobs.address}")
        return
    found = jobs.of_name(name)
    print(table(found))
    for line in details(found[-1]):
        print(line)


def table(jobs: list[Job]) -> str:
    """A line for each submission; the run's steps stand at its last one."""
    last = {job.name: job.number for job in sorted(jobs, key=lambda job: job.number)}
    rows = [("name", "state", "since", "submission", "code", "steps", "run directory")]
    for job in jobs:
        code = "-" if job.is_live else str(job.exit_code)
        done = steps_done(job.run) if job.number == last[job.name] else None
        steps = "-" if done is None else str(done)
        rows.append((job.name, job.state, age(job), str(job.number), code, steps, job.run))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def age(job: Job) -> str:
    """Since it was submitted, or since it ended."""
    seconds = max(0.0, time.time() - (job.ended or job.started))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def steps_done(run: str) -> int | None:
    """As its metrics say; None where the run directory is not seen from here, or has none yet."""
    from orchestration.watch.top_view import last_values

    try:
        step = last_values(Path(run))[0]
    except (OSError, ValueError):
        return None
    return None if step is None else step + 1


def details(job: Job) -> list[str]:
    """What the table has no room for: node, why it ended, how to go on."""
    lines = [f"job {job.id} on node {job.node[:8]}" if job.node else f"job {job.id}: not placed yet"]
    if job.state == "failed":
        lines.append(job.message.strip().splitlines()[-1][:300] if job.message.strip() else "no message")
    if job.state in ("failed", "stopped"):
        lines.append(f"go on with it: quorum resume {job.name}")
    return lines
