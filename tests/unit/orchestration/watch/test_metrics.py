"""Metric names, the durable table, supersession, torn lines and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.watch.jsonl import append_rows, read_rows
from orchestration.watch.metrics import METRICS, TIME_PARTS, MetricsWriter, read_metrics
from orchestration.watch.sinks.sink import SinkRun
from orchestration.watch.sinks.tensorboard import TensorBoardOptions, TensorBoardSink
from quorum.errors import ResourceError, StorageError

ROOT = Path(__file__).parents[4]


def test_every_metric_is_named_stage_slash_name_and_says_what_it_is() -> None:
    for name, spec in METRICS.items():
        assert re.fullmatch(r"(rollout|vote|guard|learn|sync|time|audit|eval)/[a-z_]+", name)
        assert spec.name == name and len(spec.help) > 10 and spec.unit
    assert {f"time/{part}_seconds" for part in TIME_PARTS} < METRICS.keys()


def test_an_unregistered_name_is_refused_and_the_nearest_named(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    with pytest.raises(ValueError, match="did you mean vote/agreement_mean"):
        writer.log(0, 0, 0, {"vote/agreement_men": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_table_has_one_row_per_step_from_the_highest_branch_and_incarnation(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.log(0, 0, 0, {"learn/grad_norm": 9.0, "learn/loss": 0.0})
    writer.log(1, 0, 0, {"learn/loss": 1.0, "learn/grad_norm": 8.0, "learn/entropy_mean": 1.0})
    writer.log(2, 0, 0, {"learn/loss": 2.0})
    writer.log(1, 0, 1, {"learn/loss": 11.0})
    writer.log(2, 1, 0, {"learn/loss": 22.0})
    writer.log(2, 0, 5, {"learn/loss": 99.0})
    table = read_metrics(tmp_path)
    assert table.column_names == ["step", "branch", "incarnation", "learn/loss", "learn/grad_norm"]
    assert table["learn/loss"].to_pylist() == [0.0, 11.0, 22.0]
    assert table["learn/grad_norm"].to_pylist() == [9.0, None, None]
    assert table["incarnation"].to_pylist() == [0, 1, 0]


def test_rows_of_one_step_and_writer_add_up(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.log(3, 0, 0, {"learn/loss": 0.5, "learn/kl_mean": math.nan})
    writer.log(3, 0, 0, {"eval/average_accuracy": 0.25})
    (row,) = read_metrics(tmp_path).to_pylist()
    assert (row["learn/loss"], row["eval/average_accuracy"], row["learn/kl_mean"]) == (0.5, 0.25, None)


def test_what_the_audit_measured_joins_the_row_of_its_step(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.log(0, 0, 1, {"learn/loss": 0.5})
    writer.log(1, 0, 1, {"learn/loss": 0.4, "audit/label_accuracy": 0.1})
    (tmp_path / "audit").mkdir()
    key = {"branch": 0, "incarnation": 0}
    append_rows(tmp_path / "audit/labels.jsonl", [{"step": 1, **key, "audit/label_accuracy": 0.9}])
    append_rows(tmp_path / "audit/eval.jsonl", [{"step": 2, **key, "eval/average_accuracy": 0.7, "sources": {}}])
    rows = read_metrics(tmp_path).to_pylist()
    assert [row["audit/label_accuracy"] for row in rows] == [None, 0.9, None]
    assert [row["eval/average_accuracy"] for row in rows] == [None, None, 0.7]


def test_an_empty_run_has_an_empty_table(tmp_path: Path) -> None:
    assert read_metrics(tmp_path).num_rows == 0


def test_a_torn_last_line_is_not_read_and_the_next_row_is_whole(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.log(0, 0, 0, {"learn/loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 1, "branch": 0, "incarn')
    assert [row["step"] for row in read_rows(path)] == [0]
    MetricsWriter(tmp_path, tensorboard=False).log(1, 0, 1, {"learn/loss": 2.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_file_of_one_long_torn_line_is_cut_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("x" * 200_000)
    append_rows(path, [{"step": 1}])
    assert path.read_text() == '{"step": 1}\n'


def test_a_write_that_fails_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="metrics.jsonl"):
        MetricsWriter(tmp_path / "missing", tensorboard=False).log(0, 0, 0, {"learn/loss": 1.0})


def test_tensorboard_reads_back_what_was_logged_and_forgets_superseded_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = MetricsWriter(tmp_path, tensorboard=True)
    for step in range(4):
        first.log(step, 0, 0, {"vote/agreement_mean": step / 10, "learn/loss": math.nan})
    first.close()
    (old,) = (tmp_path / "tensorboard").iterdir()
    os.rename(old, old.with_name("events.out.tfevents.0000000001.host.1.1"))
    second = MetricsWriter(tmp_path, tensorboard=True)
    second.log(2, 0, 1, {"vote/agreement_mean": 0.9})
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = [(event.step, round(event.value, 4)) for event in events.Scalars("vote/agreement_mean")]
    assert points == [(0, 0.0), (1, 0.1), (2, 0.9)]


def test_writing_metrics_and_events_imports_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = (
        "import sys; from orchestration.watch.metrics import MetricsWriter\n"
        "MetricsWriter(sys.argv[1], True).log(0, 0, 0, {'learn/loss': 1.0})\n"
        "assert not {'torch', 'tensorflow', 'ray', 'vllm'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60, cwd=ROOT)


def test_without_the_package_each_writer_of_events_says_how_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ResourceError, match=r"`pip install tensorboard`, or set report\.tensorboard=false"):
        MetricsWriter(tmp_path, tensorboard=True)
    sink = TensorBoardSink(SinkRun(tmp_path, "id"), TensorBoardOptions(log_dir=str(tmp_path)))
    with pytest.raises(ResourceError, match=r"tensorboard`, or take the sink tensorboard out of report\.sinks"):
        sink.open()


def test_the_registry_and_the_names_that_the_code_logs_are_the_same() -> None:
    literal = re.compile(r'"((?:rollout|vote|guard|learn|sync|time|audit|eval)/[a-z_]+)"')
    logged: set[str] = set()
    for package in ("rollout", "voting", "learner", "orchestration"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name not in ("metrics.py", "report.py", "display.py", "story.py"):
                logged |= set(literal.findall(path.read_text()))
    logged |= {f"time/{part}_seconds" for part in TIME_PARTS}
    assert logged - METRICS.keys() == set()
    assert METRICS.keys() - logged == set()
