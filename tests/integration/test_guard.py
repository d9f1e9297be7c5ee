"""A real run that collapses fast: rolled back once onto a new branch, then stopped, and stopped again when resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestration.guard_record import FILE_NAME, GuardRecord
from orchestration.ledger import read_ledger
from orchestration.run_dir import read_info
from orchestration.watch.jsonl import read_rows
from orchestration.watch.metrics import read_metrics
from tests.integration.run_helpers import quorum

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(900)]


def collapsing(run: Path) -> list[str]:
    """The demo's model at ten times its learning rate: it leaves its right majorities within a few steps."""
    return [
        *("train", "demo", f"run.dir={run}", "run.num_steps=16", "learner.learning_rate=1e-3"),
        *("rollout.num_samplers=1", "learner.num_ranks=1", "rollout.prompts_per_step=16"),
        *("rollout.completions_per_prompt=8", "evaluation.completions_per_prompt=8"),
        *("evaluation.every_steps=2", "evaluation.data.0.size=40", "report.tensorboard=false"),
        *("checkpoint.every_steps=2", "checkpoint.keep_best=1", "checkpoint.best_metric=eval/health"),
        *("guard.on_alarm=[lower_lr, rollback]", "guard.max_rollbacks=1", "guard.learning_rate_factor=0.9"),
    ]


def test_a_collapse_is_rolled_back_once_then_ends_the_run_by_name_and_again_when_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = quorum(*collapsing(run), timeout=500)
    assert done.code == 6, done.output[-3000:]
    assert "the guard ended the run" in done.output and "eval/anchor_" in done.output

    record = GuardRecord(run)
    alarms = [row for row in record.rows if row.kind == "alarm"]
    assert [row.branch for row in alarms] == [0, 1] and record.branch == 1
    assert alarms[0].actions == ("lower_lr", "rollback") and alarms[1].actions == ("lower_lr", "stop")
    back = alarms[0].rollback_to
    assert back is not None and back < alarms[0].step

    info = read_info(run)
    assert (info.branch, info.state) == (1, "stopped")
    rows = read_metrics(run).to_pylist()
    assert {row["branch"] for row in rows if row["step"] > back} == {1}, "the newer branch's rows win"
    assert {row.branch for row in read_ledger(run)} == {0, 1}
    every = [row for row in read_rows(run / "metrics.jsonl") if row.get("learn/learning_rate")]
    rates = {(row["branch"], row["step"]): row["learn/learning_rate"] for row in every}
    assert rates[1, back] == pytest.approx(0.9 * rates[0, back])
    hashes = {(row.branch, row.group_id): row.tokens_hash for row in read_ledger(run)}
    redrawn = [(hashes[0, group], hashes[1, group]) for branch, group in hashes if branch and (0, group) in hashes]
    assert redrawn and all(old != new for old, new in redrawn), "a new branch draws with other seeds"

    recorded = (run / FILE_NAME).read_bytes()
    again = quorum("train", "--resume", str(run), timeout=300)
    assert again.code == 6, again.output[-3000:]
    assert (run / FILE_NAME).read_bytes() == recorded, "the same steps give the same alarms and actions"

    replayed = quorum("guard", "--replay", str(run), timeout=60)
    assert replayed.code == 0 and json.loads(replayed.output.splitlines()[-1].removeprefix("RESULT "))["alarm_step"]
