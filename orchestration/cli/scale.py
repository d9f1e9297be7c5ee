"""`quorum scale`: more or fewer samplers for a live run."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorum.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from orchestration.jobs.client import Job, Jobs
    from orchestration.live_run import RunControl

LOOK_SECONDS = 0.5
READY = "ready"
GONE = ("dead", "retired")
"""States of samplers that do not come back."""


def scale(
    run: Annotated[str, typer.Argument(help="A live run: path, name under runs/, or name of a submitted run.")],
    samplers: Annotated[int, typer.Option("--samplers", "-n", min=1, help="How many it shall have from now on.")],
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait until they are ready.")
    ] = 120.0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the order is given.")] = False,
    address: Annotated[
        str | None,
        typer.Option("--address", help="http://HEAD:8265 where the run was submitted; by default RAY_ADDRESS."),
    ] = None,
) -> None:
    """Give a live run more or fewer samplers. It goes on meanwhile; no group is lost.

    Samplers that join get the current weights without stopping the others; those that leave finish their groups or
    hand them back. Exit code 4 when the run is not reached, or they are not ready in time: the order stands. The order
    for a submitted run goes through a short job on its cluster, so that it can be given from anywhere.
    """
    from orchestration.jobs.lookup import submitted_run
    from orchestration.live_run import connected
    from orchestration.run_dir import resolve_run

    if (found := submitted_run(run, address)) is not None:
        raise typer.Exit(_by_job(*found, samplers, wait, no_wait))
    path = resolve_run(run)
    with connected(path) as control:
        seen: list[str] = control.status().get("events", [])
        answer = control.scale(samplers)
        if not answer.is_accepted:
            raise ConfigError(answer.text)
        print(f"run {path.name}: {answer.text}", flush=True)
        if not no_wait:
            _await(control, path, samplers, wait, seen)


def _by_job(jobs: Jobs, job: Job, num_samplers: int, seconds: float, no_wait: bool) -> int:
    """Have a submitted run scaled from inside its cluster. Returns the exit code."""
    if not job.is_live:
        raise ConfigError(
            f"run {job.name} {job.end} (exit code {job.exit_code}) and has no samplers: `quorum resume {job.name} "
            f"rollout.num_samplers={num_samplers}` goes on with so many"
        )
    from orchestration.cli.submit import show
    from orchestration.jobs.follow import follow

    words = ["scale", job.run, "--samplers", str(num_samplers), "--wait", f"{seconds:g}"]
    command = ["python", "-m", "orchestration", *words, *(["--no-wait"] if no_wait else [])]
    order = jobs.run_command(job, shlex.join(command), "scale")
    try:
        ended = follow(jobs, order, show)
    except KeyboardInterrupt:
        print(
            f"\nrun {job.name}: the order for {num_samplers} samplers stands; see what became of it with "
            f"`quorum logs {job.name} --follow`",
            file=sys.stderr,
        )
        return 130
    if ended.exit_code:
        print(
            f"run {job.name}: the order for {num_samplers} samplers ended with exit code {ended.exit_code}", flush=True
        )
        if ended.code is None:
            print(ended.message, file=sys.stderr)
    return ended.exit_code


def _await(control: RunControl, path: Path, num_samplers: int, seconds: float, seen: list[str]) -> None:
    """Print every change and event until the run has exactly so many samplers, all READY."""
    from orchestration.control import sampler_count

    began, shown = time.monotonic(), ""
    while True:
        status = control.status()
        events: list[str] = status.get("events", [])
        for event in new_events(seen, events):
            print(f"  {event}", flush=True)
        seen = events
        line = standing(status)
        if line != shown:
            print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True)
            shown = line
        if is_reached(status, num_samplers):
            print(f"run {path.name}: {sampler_count(num_samplers)} READY after {time.monotonic() - began:.1f} s")
            return
        if time.monotonic() - began > seconds:
            raise ResourceError(
                f"run {path} has {line} {seconds:g} s after {num_samplers} were ordered; the order stands: "
                "wait longer with --wait, or see the run's output for what keeps them"
            )
        time.sleep(LOOK_SECONDS)


def is_reached(status: dict[str, Any], num_samplers: int) -> bool:
    """Whether the run wants so many samplers and has exactly these, all READY."""
    here = [state for state in status.get("samplers", {}).values() if state not in GONE]
    wanted, ready = status.get("num_wanted"), status.get("num_ready")
    return wanted == num_samplers and ready == num_samplers and len(here) == num_samplers


def standing(status: dict[str, Any]) -> str:
    """How the samplers stand, in words: "2 of 3 READY (sampler-2 STARTING), step 12"."""
    if not status:
        return "no word from the driver yet"
    others = [f"{name} {state.upper()}" for name, state in status["samplers"].items() if state not in (READY, *GONE)]
    named = f" ({', '.join(others)})" if others else ""
    return f"{status['num_ready']} of {status['num_wanted']} READY{named}, step {status['step']}"


def new_events(before: list[str], after: list[str]) -> list[str]:
    """What was added between two looks at the last events, of which the oldest drop out."""
    for dropped in range(len(before) + 1):
        kept = before[dropped:]
        if after[: len(kept)] == kept:
            return after[len(kept) :]
    return after
