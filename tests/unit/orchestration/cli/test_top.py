"""What `quorum top` shows of runs that are live, ended or killed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from configs.load import dump_config
from configs.schema import RunConfig
from orchestration.cli.main import app
from orchestration.watch import top_view
from orchestration.watch.metrics import MetricsWriter

STATUS = {
    "phase": "rollout step 7: 3/16 groups",
    "samplers": {"sampler-0": "ready", "sampler-1": "stale"},
    "details": {
        "sampler-0": {"version": 7, "groups": 5, "tokens_per_second": 1234.0},
        "sampler-1": {"version": -1, "groups": 0, "tokens_per_second": None},
    },
    "events": ["sampler sampler-2 is lost: killed"],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "my-run"
    path.mkdir()
    tree: dict[str, Any] = {"run": {"dir": str(path)}, "model": {"path": "m"}, "data": {"train": [{"path": "p.jsonl"}]}}
    (path / "config.yaml").write_text(dump_config(RunConfig.model_validate(tree)))
    info = {"run_id": "r", "namespace": "n", "incarnation": 0, "branch": 0, "address": "127.0.0.1:1", "driver_pid": 1}
    info |= {"started_at": "", "quorum_version": "0", "state": "done"}
    (path / "run.json").write_text(json.dumps(info))
    writer = MetricsWriter(path, tensorboard=False)
    writer.log(5, 0, 0, {"time/step_seconds": 4.0, "vote/agreement_mean": 0.25})
    writer.log(6, 0, 0, {"time/step_seconds": 4.0, "vote/agreement_mean": 0.75, "vote/truncated_share": 0.9})
    writer.log(5, 0, 0, {"audit/label_accuracy": 0.5})
    return path


def text(renderable: Any) -> str:
    console = Console(width=110, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_once_shows_the_last_state_of_a_run_that_has_ended(run: Path) -> None:
    result = CliRunner().invoke(app, ["top", str(run), "--once"])
    assert result.exit_code == 0
    for words in ("done", "step 7/100", "agreement", "75.0%", "alarm:"):
        assert words in result.stdout


def test_without_once_it_ends_by_itself_where_nothing_will_change(run: Path) -> None:
    result = CliRunner().invoke(app, ["top", str(run)])
    assert result.exit_code == 0 and "step 7/100" in result.stdout


def test_a_live_run_shows_every_sampler_and_what_the_driver_does(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_view, "is_live", lambda path: True)
    shown = text(top_view.frame(run, STATUS, ""))
    assert "running" in shown and "rollout step 7: 3/16 groups" in shown and "sampler-2 is lost" in shown
    (line,) = [line for line in shown.splitlines() if "sampler-0" in line]
    assert line.split()[1:6] == ["sampler-0", "READY", "7", "5", "1,234"]


def test_a_run_that_lost_its_driver_says_so(run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"state": "running"}))
    assert "killed  step 7/100" in text(top_view.frame(run, {}, ""))


def test_only_the_end_of_a_long_table_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_view, "TAIL_BYTES", 200)
    step, values = top_view.last_values(run)
    assert step == 6 and values["vote/agreement_mean"] == 0.75


def test_after_a_resume_the_last_step_is_the_new_drivers(run: Path) -> None:
    row = {"step": 3, "branch": 0, "incarnation": 1, "time/step_seconds": 1.0, "vote/agreement_mean": 0.5}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    step, values = top_view.last_values(run)
    assert step == 3 and values["vote/agreement_mean"] == 0.5


def test_a_broken_line_is_left_out(run: Path) -> None:
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text('{"step": 4, "ti\n[1]\n' + whole)
    step, values = top_view.last_values(run)
    assert step == 6 and values["vote/agreement_mean"] == 0.75
