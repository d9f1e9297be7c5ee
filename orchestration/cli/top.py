"""`quorum top`: who works and who waits in a run, live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorum.errors import QuorumError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

REFRESH_SECONDS = 1.0
RETRY_SECONDS = 5.0


def top(
    run: Annotated[str, typer.Argument(help="A run: path, name under runs/, or name of a submitted run.")],
    once: Annotated[bool, typer.Option("--once", help="Show how it stands now and end.")] = False,
    address: Annotated[
        str | None,
        typer.Option("--address", help="http://HEAD:8265 where the run was submitted; by default RAY_ADDRESS."),
    ] = None,
) -> None:
    """Watch a run live: samplers, voters, learner, the last step's metrics and alarms. Ctrl-C ends it, not the run.

    A run that is not running is shown as it ended. The directory of a submitted run must be seen from here; what is
    live is shown on a node of its cluster.
    """
    from rich.console import Console
    from rich.live import Live

    from orchestration.jobs.lookup import submitted_run
    from orchestration.run_dir import resolve_run

    found = submitted_run(run, address)
    path, console = resolve_run(run if found is None else found[1].run), Console()
    if once:
        console.print(_frame_now(path))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while _watch(path, live):
                time.sleep(RETRY_SECONDS)
    except KeyboardInterrupt:
        return


def _frame_now(path: Path) -> RenderableType:
    from orchestration.live_run import connected
    from orchestration.watch.top_view import frame, is_live

    if not is_live(path):
        return frame(path, {}, "")
    try:
        with connected(path) as control:
            return frame(path, control.status(), "")
    except QuorumError as error:
        return frame(path, {}, str(error))


def _watch(path: Path, live: Live) -> bool:
    """Show frames while the run answers. Returns whether it is worth asking again."""
    from orchestration.live_run import connected
    from orchestration.watch.top_view import frame, is_live

    def show(status: dict[str, Any], note: str) -> None:
        live.update(frame(path, status, note), refresh=True)

    if not is_live(path):
        show({}, "")
        return False
    try:
        with connected(path) as control:
            while is_live(path):
                show(control.status(), "")
                time.sleep(REFRESH_SECONDS)
    except QuorumError as error:
        show({}, str(error))
    return True
