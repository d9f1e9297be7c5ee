"""The guard in a run, without a run: what is recorded, done, repeated after a crash, and gone back to."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from configs.schema import GuardSection
from orchestration.checkpoint import LoopState, checkpoint_steps, latest_checkpoint, set_back
from orchestration.guard_record import GuardRecord, Intervention
from orchestration.guarding import Guarding, RollbackOrdered, settle_rollback
from orchestration.watch.jsonl import append_rows
from quorum.errors import StoppedByGuard

ONLY = {"detectors": [{"name": "anchor", "options": {"loss": 0.1}}]}


def section(**fields: Any) -> GuardSection:
    return GuardSection.model_validate({**ONLY, **fields})


def make(path: Path, guard: GuardSection, branch: int = 0, step: int = 0) -> tuple[Guarding, list[str]]:
    said: list[str] = []
    return Guarding(guard, path, branch, step, said.append), said


def drive(guarding: Guarding, path: Path, anchor: dict[int, float], first: int = 0, branch: int = 0) -> None:
    """Steps as the loop makes them: an evaluation before each step, then the step's own row."""
    for step in sorted(one for one in anchor if one >= first):
        row = {"eval/agreement_mean": 0.5, "eval/anchor_vote_share": anchor[step], "eval/health": anchor[step]}
        write(path, step, branch, {**row, "guard/score": guarding.see(step, row)})
        guarding.act(step)
        write(path, step, branch, {"guard/score": guarding.see(step, {"vote/agreement_mean": 0.5})})


def write(path: Path, step: int, branch: int, values: dict[str, float]) -> None:
    append_rows(path / "metrics.jsonl", [{"step": step, "branch": branch, "incarnation": branch, **values}])


def checkpoint(path: Path, step: int, branch: int = 0) -> None:
    folder = path / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    state = LoopState(
        step=step, next_group_id=0, version=0, branch=branch, num_empty_steps=0, num_updates=0, identity_hash=""
    )
    (folder / "state.json").write_text(json.dumps(asdict(state)))
    (path / "checkpoints" / "latest").write_text(folder.name + "\n")


FALLING = {0: 0.8, 1: 0.85, 2: 0.9, 3: 0.85, 4: 0.7, 5: 0.6}


def test_without_actions_it_speaks_and_records(tmp_path: Path) -> None:
    guarding, said = make(tmp_path, section())
    drive(guarding, tmp_path, FALLING)
    assert [line.split(" (")[0].split(",")[0] for line in said] == [
        "guard: warning after 3 steps",
        "guard: alarm after 4 steps",
    ]
    assert "70.0%, 90.0% after 2 steps" in said[1] and "nothing is done" in said[1]
    assert [row.kind for row in GuardRecord(tmp_path).rows] == ["warning", "alarm"]


def test_lower_lr_and_raise_kl_multiply_from_the_alarm_on_and_again_when_patience_ends(tmp_path: Path) -> None:
    guard = section(on_alarm=["lower_lr", "raise_kl"], patience_steps=2, learning_rate_factor=0.5, kl_factor=3.0)
    guarding, _ = make(tmp_path, guard)
    drive(guarding, tmp_path, {**FALLING, 6: 0.5})
    assert [(row.step, row.actions) for row in GuardRecord(tmp_path).rows if row.actions] == [
        (4, ("lower_lr", "raise_kl")),
        (6, ("lower_lr", "raise_kl")),
    ]
    assert [guarding.factors(step).learning_rate for step in (3, 4, 5, 6)] == [1.0, 0.5, 0.5, 0.25]
    assert guarding.factors(6).kl == 9.0


def test_a_resume_in_the_middle_repeats_alarms_and_actions_and_counts_them_once(tmp_path: Path) -> None:
    guard = section(on_alarm=["lower_lr"], patience_steps=2)
    calm, said = make(tmp_path / "calm", guard)
    (tmp_path / "calm").mkdir()
    drive(calm, tmp_path / "calm", {**FALLING, 6: 0.5, 7: 0.5})
    whole = GuardRecord(tmp_path / "calm").rows
    for again_from in range(8):
        path = tmp_path / f"resumed-{again_from}"
        path.mkdir()
        first, _ = make(path, guard)
        drive(first, path, {**FALLING, 6: 0.5})
        second, _ = make(path, guard, step=again_from)
        drive(second, path, {**FALLING, 6: 0.5, 7: 0.5}, first=again_from)
        assert GuardRecord(path).rows == whole
        assert second.factors(7) == calm.factors(7)


def test_a_rollback_goes_to_the_healthiest_checkpoint_and_is_recorded_first(tmp_path: Path) -> None:
    for step in (1, 2, 4):
        checkpoint(tmp_path, step)
    guarding, _ = make(tmp_path, section(on_alarm=["lower_lr", "rollback"]))
    with pytest.raises(RollbackOrdered) as caught:
        drive(guarding, tmp_path, FALLING)
    assert caught.value.step == 2
    record = GuardRecord(tmp_path)
    assert record.branch == 1 and record.rows[-1].rollback_to == 2
    settle_rollback(tmp_path)
    settle_rollback(tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found[1].step == 2 and checkpoint_steps(tmp_path) == [1, 2]
    again, said = make(tmp_path, section(on_alarm=["lower_lr", "rollback"]), branch=1, step=2)
    drive(again, tmp_path, {2: 0.9, 3: 0.91}, first=2, branch=1)
    assert said == [] and again.factors(3).learning_rate == 0.5, "what led to the branch stays turned down on it"


def test_without_a_checkpoint_it_goes_back_to_the_base_model(tmp_path: Path) -> None:
    guarding, _ = make(tmp_path, section(on_alarm=["rollback"]))
    with pytest.raises(RollbackOrdered) as caught:
        drive(guarding, tmp_path, FALLING)
    assert caught.value.step == 0
    checkpoint(tmp_path, 5)  # saved by an attempt that was killed in the rollback
    settle_rollback(tmp_path)
    assert latest_checkpoint(tmp_path) is None and checkpoint_steps(tmp_path) == []


@pytest.mark.parametrize(("when_spent", "stops"), [("stop", True), ("log", False)])
def test_when_the_rollbacks_are_spent_it_stops_or_only_speaks(tmp_path: Path, when_spent: str, stops: bool) -> None:
    guard = section(on_alarm=["rollback"], max_rollbacks=1, when_spent=when_spent)
    row = {"score": 1.0, "reason": "", "kind": "alarm"}
    GuardRecord(tmp_path).add(Intervention(branch=0, step=9, rollback_to=0, actions=("rollback",), **row))
    checkpoint(tmp_path, 2, branch=1)
    guarding, said = make(tmp_path, guard, branch=1)
    if stops:
        with pytest.raises(StoppedByGuard, match=r"after 2 steps: `quorum export .* --step 2`") as caught:
            drive(guarding, tmp_path, FALLING, branch=1)
        assert caught.value.exit_code == 6
    else:
        drive(guarding, tmp_path, FALLING, branch=1)
        assert any("alarm" in line for line in said)
    assert GuardRecord(tmp_path).branch == 1


def test_checkpoints_of_the_new_branch_are_left_alone(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 6, branch=1)
    set_back(tmp_path, 2, branch=1)
    assert checkpoint_steps(tmp_path) == [2, 6]
