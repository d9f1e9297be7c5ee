"""What a run shows while it goes: a live display in a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from configs.schema import RunConfig
from orchestration.watch.metrics import METRICS, TIME_PARTS

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = {
    "vote/reward_mean": "reward",
    "vote/agreement_mean": "agreement",
    "vote/no_label_share": "no label",
    "vote/unanimous_share": "unanimous",
    "vote/modal_answer_share": "modal answer",
    "vote/label_flip_share": "label flips",
    "audit/label_accuracy": "label accuracy",
    "learn/entropy_mean": "entropy",
    "learn/kl_mean": "KL to base",
    "learn/grad_norm": "grad norm",
    "sync/logprob_gap_mean": "logprob gap",
    "rollout/completion_tokens_mean": "length",
    "rollout/truncated_share": "truncated",
    "rollout/tokens_per_second": "tokens/s",
    "time/step_seconds": "step seconds",
}
"""Metrics in the live table."""
PLAIN: tuple[str, ...] = (
    "vote/reward_mean",
    "vote/agreement_mean",
    "audit/label_accuracy",
    "learn/entropy_mean",
    "learn/kl_mean",
)
PLAIN += ("rollout/completion_tokens_mean", "rollout/tokens_per_second", "time/step_seconds")
"""Metrics of a plain line."""
EVENTS_SHOWN = 6
REFRESHES_PER_SECOND = 4


class Display:
    """Shows phases, steps and events. Live when standard error is a terminal and the configuration lets it.

    Example:
        with Display(config, run_path) as display:
            display.phase("rollout", "step 3: 5/16 groups")
            display.step(3, {"vote/agreement_mean": 0.7})
            display.event("checkpoint step-4")
    """

    def __init__(
        self, config: RunConfig, run_path: Path, *, live: bool | None = None, stream: IO[str] | None = None
    ) -> None:
        """
        Args:
            config: of the run: its number of steps, and whether a live display is wanted.
            run_path: the run directory, named at the top.
            live: True or False decides; None lets report.live and the terminal decide.
            stream: where to show; standard error by default, so that standard output stays the command's result.
        """
        self._num_steps, self._run_path = config.run.num_steps, run_path
        self._stream = stream or sys.stderr
        wanted = config.report.live == "auto" and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._is_live = wanted if live is None else live
        self._began = time.monotonic()
        self._phase = ("", "")
        self._phase_began = self._began
        self._steps_done = 0
        self._values: list[Mapping[str, float]] = []
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._live: Any = None

    def __enter__(self) -> Display:
        if self._is_live:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(
                console=console,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def phase(self, name: str, detail: str = "") -> None:
        """The run entered a phase, or went on in it. Plain output shows each phase's name once, when it changes."""
        if name != self._phase[0]:
            self._phase_began = time.monotonic()
            if not self._is_live and name not in TIME_PARTS:
                self._line(f"{name}: {detail}" if detail else name)
        self._phase = (name, detail)

    def describe_phase(self) -> str:
        """The phase that the run is in, in words."""
        return " ".join(filter(None, self._phase))

    def step(self, step: int, values: Mapping[str, float | None]) -> None:
        """A step is over. `values` are its metrics by registered name."""
        self._steps_done = step + 1
        measured = {name: value for name, value in values.items() if value is not None}
        self._values = [*self._values[-1:], measured]
        if not self._is_live:
            shown = (f"{SHOWN[name]} {format_value(name, measured[name])}" for name in PLAIN if name in measured)
            self._line(f"step {step + 1}/{self._num_steps}: " + ", ".join(shown))

    def event(self, text: str) -> None:
        """Something worth knowing happened once."""
        self._events.append(f"{_clock(time.monotonic() - self._began)}  {text}")
        if not self._is_live:
            self._line(text)

    def close(self) -> None:
        """Leave the last state on the screen and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, text: str) -> None:
        self._stream.write(f"[{_clock(time.monotonic() - self._began)}] {text}\n")
        self._stream.flush()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        name, detail = self._phase
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._num_steps, completed=min(self._steps_done, self._num_steps), width=40)
        head.add_row(bar, f"step {self._steps_done}/{self._num_steps}", f"{_clock(now - self._began)} elapsed")
        phase = Text.assemble((name, "bold"), f"  {detail}  ", (f"{now - self._phase_began:.0f} s", "dim"))
        parts: list[RenderableType] = [head, phase]
        if self._values:
            parts.append(self._table())
        if self._events:
            parts.append(Text("\n".join(self._events), style="dim"))
        return Panel(Group(*parts), title=f"quorum  {self._run_path}", title_align="left", border_style="dim")

    def _table(self) -> RenderableType:
        from rich.table import Table

        table = Table.grid(padding=(0, 3))
        newest, before = self._values[-1], self._values[0] if len(self._values) > 1 else {}
        cells = []
        for name, title in SHOWN.items():
            if name in newest:
                trend = _trend(newest[name], before.get(name))
                cells.append((f"[dim]{title}[/dim]", f"{format_value(name, newest[name])} {trend}"))
        half = (len(cells) + 1) // 2
        for row in range(half):
            pair = cells[row : row + 1] + cells[row + half : row + half + 1]
            table.add_row(*(text for cell in pair for text in cell))
        return table


def format_value(name: str, value: float) -> str:
    """A metric as people read it: shares in percent, counts whole, the rest with three digits.

    Example:
        >>> format_value("vote/agreement_mean", 0.7312), format_value("learn/grad_norm", 0.01234)
        ('73.1%', '0.0123')
    """
    unit = METRICS[name].unit if name in METRICS else "value"
    if unit == "share":
        return f"{100 * value:.1f}%"
    if abs(value) >= 1000 or (unit == "count" and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _trend(now: float, before: float | None) -> str:
    if before is None or now == before:
        return "[dim]=[/dim]" if before is not None else " "
    return "[dim]+[/dim]" if now > before else "[dim]-[/dim]"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
