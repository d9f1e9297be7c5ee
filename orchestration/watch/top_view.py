"""The picture that `quorum top` shows of a run: what its control actor says, and the last rows of its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.run_dir import is_driven, read_config, read_info
from orchestration.step_metrics import alarm_limits
from orchestration.watch.alarms import alarms
from orchestration.watch.display import SHOWN, format_value
from orchestration.watch.jsonl import current_rows, read_last_rows, supersession
from orchestration.watch.metrics import FILE_NAME, METRICS

if TYPE_CHECKING:
    from rich.console import RenderableType

TAIL_BYTES = 262_144
"""Of metrics.jsonl, read for each frame: the last steps, however long the run."""
MORE = {
    "rollout/idle_share": "samplers idle",
    "learn/idle_share": "learner idle",
    "time/bubble_share": "bubbles",
    "learn/mfu_share": "MFU",
    "sync/seconds": "sync seconds",
    "vote/num_replicas": "voting replicas",
    "guard/score": "guard's score",
}
"""Shown besides those of the run's own display."""
EVENTS_SHOWN = 5


def is_live(path: Path) -> bool:
    """Whether the run has a driver now."""
    return read_info(path).state == "running" and is_driven(path)


def last_values(path: Path) -> tuple[int | None, dict[str, float]]:
    """The last step with metrics and its values; (None, {}) when there is none."""
    rows = read_last_rows(path / FILE_NAME, TAIL_BYTES)
    rows = [row for row in rows if isinstance(row.get("time/step_seconds"), float)]
    if not rows:
        return None, {}
    newest = max(map(supersession, rows))  # a resume goes back to steps before those of the driver that was killed
    steps = current_rows(row for row in rows if supersession(row) == newest)
    step = max(steps)
    values = {name: value for row in steps[step] for name, value in row.items() if name in METRICS}
    return step, {name: value for name, value in values.items() if value is not None}


def frame(path: Path, status: Mapping[str, Any], note: str) -> RenderableType:
    """One picture.

    Args:
        path: of the run.
        status: what its control actor says; empty where there is none.
        note: why there is none, for a run that should have one.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    config, info = read_config(path), read_info(path)
    step, values = last_values(path)
    state = "running" if is_live(path) else ("killed" if info.state == "running" else info.state)
    done = 0 if step is None else step + 1
    head = f"{state}  step {done}/{config.run.num_steps}  incarnation {info.incarnation}  {info.message}"
    parts: list[RenderableType] = [Text(head.rstrip(), style="bold")]
    if status.get("phase"):
        parts.append(Text(f"learner and driver: {status['phase']}"))
    if note:
        parts.append(Text(note, style="yellow"))
    if status.get("samplers"):
        parts.append(_samplers(status))
    if values:
        parts.append(_values(values))
    parts += [Text(f"alarm: {line}", style="red") for line in alarms(values, alarm_limits(config.voting.alarms))]
    parts += [Text(event, style="dim") for event in status.get("events", [])[-EVENTS_SHOWN:]]
    return Panel(Group(*parts), title=f"quorum top  {path.name}", title_align="left")


def _samplers(status: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table("sampler", "state", "version", "groups", "tokens/s", box=None, padding=(0, 2, 0, 0))
    details = status.get("details", {})
    for name, state in status["samplers"].items():
        own = details.get(name, {})
        rate = own.get("tokens_per_second")
        shown = [
            name,
            state.upper(),
            str(own.get("version", "")),
            str(own.get("groups", "")),
            f"{rate:,.0f}" if rate else "-",
        ]
        table.add_row(*shown)
    return table


def _values(values: Mapping[str, float]) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 3))
    cells = [(title, format_value(name, values[name])) for name, title in {**SHOWN, **MORE}.items() if name in values]
    half = (len(cells) + 1) // 2
    for row in range(half):
        table.add_row(*(text for cell in cells[row : row + 1] + cells[row + half : row + half + 1] for text in cell))
    return table
