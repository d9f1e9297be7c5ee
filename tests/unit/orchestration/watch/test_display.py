"""The display: plain lines without a terminal, a rendered panel with one."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from configs.schema import RunConfig
from orchestration.watch.display import PLAIN, SHOWN, Display, format_value
from orchestration.watch.metrics import METRICS


@pytest.fixture
def config() -> RunConfig:
    return RunConfig.model_validate(
        {"run": {"dir": "r", "num_steps": 4}, "model": {"path": "m"}, "data": {"train": [{"path": "d.jsonl"}]}}
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(display: Display) -> None:
    with display:
        display.phase("start", "two samplers")
        display.phase("sync", "first weights")
        display.phase("rollout", "step 0: 0/16 groups")
        display.phase("rollout", "step 0: 9/16 groups")
        display.step(0, {"vote/agreement_mean": 0.5, "learn/kl_mean": None, "rollout/tokens_per_second": 12345.6})
        display.step(1, {"vote/agreement_mean": 0.75})
        display.event("evaluation after 2 steps [not markup]")
        display.phase("evaluate", "after 2 steps")


def test_without_a_terminal_there_is_one_plain_line_per_step_and_event(config: RunConfig) -> None:
    stream = io.StringIO()
    show(Display(config, Path("runs/x"), stream=stream))
    lines = [re.sub(r"^\[\d\d:\d\d\] ", "", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "start: two samplers",
        "step 1/4: agreement 50.0%, tokens/s 12,346",
        "step 2/4: agreement 75.0%",
        "evaluation after 2 steps [not markup]",
        "evaluate: after 2 steps",
    ]


def test_a_terminal_shows_progress_phase_metrics_and_events(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(Display(config, Path("runs/x"), stream=stream))
    text = stream.getvalue()
    for part in ("runs/x", "step 2/4", "evaluate", "after 2 steps", "agreement", "75.0%", "[not markup]"):
        assert part in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_live_is_off_where_the_configuration_or_the_caller_says_so(config: RunConfig) -> None:
    never = config.model_copy(update={"report": config.report.model_copy(update={"live": "never"})})
    for display in (
        Display(never, Path("x"), stream=Terminal()),
        Display(config, Path("x"), live=False, stream=Terminal()),
    ):
        with display:
            display.step(0, {})
    assert not display._is_live


def test_values_are_formatted_by_their_unit() -> None:
    assert format_value("vote/agreement_mean", 0.7312) == "73.1%"
    assert format_value("vote/distinct_answers", 12.0) == "12"
    assert format_value("learn/grad_norm", 0.012345) == "0.0123"
    assert format_value("rollout/tokens_per_second", 25310.4) == "25,310"


def test_everything_shown_is_a_registered_metric() -> None:
    assert SHOWN.keys() <= METRICS.keys() and set(PLAIN) <= SHOWN.keys()
