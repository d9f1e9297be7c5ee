"""Checkpoints of a run: whole or absent, completed beside training, kept by count and by evaluation, damage noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.schema import CheckpointSection
from learner.checkpoint import MANIFEST, clear_staging, hash_share, publish_checkpoint, staging_directory
from orchestration.checkpoint import (
    Checkpoints,
    LoopState,
    checkpoint_of_step,
    latest_checkpoint,
    read_labels,
)
from quorum.errors import DataError, RankFailure, StorageError

AGREEMENT, ACCURACY = "eval/agreement_mean", "eval/average_accuracy"


class Learner:
    """Writes like the ranks do; what is saved is complete only when told."""

    def __init__(self) -> None:
        self.is_done, self.error = True, None

    def save(self, path: str, client_state: dict[str, Any]) -> Path:
        clear_staging(Path(path))
        (staging_directory(Path(path)) / "rank0.pt").write_text(f"weights of step {client_state['step']}")
        return Path(path)

    def has_hashed(self, saving: Path) -> bool:
        return self.is_done

    def finish_save(self, saving: Path) -> None:
        if self.error is not None:
            raise self.error
        publish_checkpoint(saving, hash_share(staging_directory(saving), 0, 1), {"num_ranks": 1, "zero_stage": 2})


def state(step: int) -> LoopState:
    return LoopState(
        step=step,
        next_group_id=4 * step,
        version=step,
        branch=0,
        num_empty_steps=0,
        num_updates=step,
        identity_hash="x",
    )


def checkpoints(run: Path, learner: Learner | None = None, **section: Any) -> Checkpoints:
    return Checkpoints(run, CheckpointSection(**section), learner or Learner())  # type: ignore[arg-type]


def save(made: Checkpoints, step: int, value: float | None = None) -> None:
    made.save(state(step), {"p": str(step)}, {} if value is None else {AGREEMENT: value})
    made.settle()


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    save(checkpoints(tmp_path), 3)
    path, found = latest_checkpoint(tmp_path)  # type: ignore[misc]
    assert (path, found) == (tmp_path / "checkpoints" / "step-000003", state(3))
    assert read_labels(path) == {"p": "3"}
    assert checkpoint_of_step(tmp_path, 3) == (path, found)


def test_a_step_that_is_not_kept_is_refused_with_those_that_are(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(made, step)
    with pytest.raises(DataError, match="no checkpoint after 1 steps; there are: 2, 3"):
        checkpoint_of_step(tmp_path, 1)


def test_the_older_one_counts_until_the_new_one_is_complete(tmp_path: Path) -> None:
    learner = Learner()
    made = checkpoints(tmp_path, learner)
    save(made, 1)
    learner.is_done = False
    made.save(state(2), {}, {})
    made.poll()
    assert latest_checkpoint(tmp_path)[1].step == 1  # type: ignore[index]
    assert latest_checkpoint(tmp_path)[0].name == "step-000001"  # type: ignore[index]
    learner.is_done = True
    made.poll()
    assert latest_checkpoint(tmp_path)[1].step == 2  # type: ignore[index]


@pytest.mark.parametrize("error", [StorageError("disk full"), RankFailure("rank 1 died")])
def test_a_failure_beside_training_surfaces_at_the_next_save_and_keeps_the_older_one(
    tmp_path: Path, error: Exception
) -> None:
    learner = Learner()
    made = checkpoints(tmp_path, learner)
    save(made, 1)
    made.save(state(2), {}, {})
    learner.error = error
    with pytest.raises(type(error), match=str(error)):
        made.save(state(3), {}, {})
    assert latest_checkpoint(tmp_path)[1].step == 1  # type: ignore[index]


def test_what_a_killed_driver_left_is_cleared_away_by_the_next_save(tmp_path: Path) -> None:
    made = checkpoints(tmp_path)
    save(made, 1)
    checkpoints(tmp_path).save(state(2), {}, {})
    assert kept(tmp_path) == [".step-000002.tmp", "step-000001"]
    save(checkpoints(tmp_path), 3)
    assert kept(tmp_path) == ["step-000001", "step-000003"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, keep=1, keep_best=2)
    for step, value in [(1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6), (5, None)]:
        save(made, step, value)
    assert kept(tmp_path) == ["step-000002", "step-000003", "step-000005"]
    held = json.loads((tmp_path / "checkpoints" / "best").read_text())
    assert held == {"metric": AGREEMENT, "checkpoints": {"step-000002": 0.9, "step-000003": 0.7}}
    assert list(held["checkpoints"]) == ["step-000002", "step-000003"], "the best first"


def test_an_evaluation_among_the_best_is_saved_at_once(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, every_steps=10, keep_best=1)
    assert made.is_due(3, {AGREEMENT: 0.5})
    save(made, 3, 0.5)
    resumed = checkpoints(tmp_path, every_steps=10, keep_best=1)
    assert not resumed.is_due(4, {AGREEMENT: 0.5}), "the older one wins a tie"
    assert resumed.is_due(4, {AGREEMENT: 0.6})
    assert resumed.is_due(10, {}) and not resumed.is_due(11, {})
    assert not checkpoints(tmp_path, every_steps=0).is_due(4, {AGREEMENT: 0.9})


def test_accuracy_decides_only_when_the_configuration_names_it(tmp_path: Path) -> None:
    values = {AGREEMENT: 0.4, ACCURACY: 0.9}
    made = checkpoints(tmp_path, keep_best=1)
    made.save(state(1), {}, values)
    made.settle()
    assert not made.is_due(2, {AGREEMENT: 0.3, ACCURACY: 1.0})
    named = checkpoints(tmp_path, keep_best=1, best_metric=ACCURACY)
    assert named.is_due(2, {AGREEMENT: 0.3, ACCURACY: 0.1}), "values of another metric are not compared"


@pytest.mark.parametrize("name", ["state.json", "labels.json", "manifest.json", f"learner/{MANIFEST}"])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_wrong_byte_is_noticed_with_the_file_and_the_way_out(tmp_path: Path, name: str, place: int) -> None:
    save(checkpoints(tmp_path), 1)
    file = tmp_path / "checkpoints" / "step-000001" / name
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        DataError, match=r"checkpoint file .*step-000001.*write the name of an older checkpoint"
    ) as found:
        latest_checkpoint(tmp_path)
    assert str(file) in str(found.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    save(checkpoints(tmp_path), 1)
    (tmp_path / "checkpoints" / "step-000001" / "labels.json").unlink()
    with pytest.raises(DataError, match="labels.json is missing"):
        latest_checkpoint(tmp_path)


def test_a_failure_elsewhere_keeps_a_checkpoint_that_only_had_to_be_completed(tmp_path: Path) -> None:
    learner = Learner()
    made = checkpoints(tmp_path, learner)
    made.save(state(1), {}, {})
    learner.is_done = False
    made.keep_what_is_whole(wait=False)  # the ranks are dead, and had not hashed it
    assert latest_checkpoint(tmp_path) is None
    made.keep_what_is_whole(wait=True)
    assert latest_checkpoint(tmp_path)[1] == state(1)  # type: ignore[index]
    made.save(state(2), {}, {})
    learner.error = RankFailure("dead too")
    made.keep_what_is_whole(wait=True)  # says nothing: the failure that led here is told
    assert latest_checkpoint(tmp_path)[1] == state(1)  # type: ignore[index]


def test_an_evaluation_made_only_after_the_save_still_counts(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, keep=1, keep_best=1)
    save(made, 1)
    save(made, 1, 0.9)
    save(made, 2, 0.5)
    save(made, 3, 0.4)
    assert kept(tmp_path) == ["step-000001", "step-000003"]


def test_a_best_one_that_is_gone_does_not_keep_later_ones_out(tmp_path: Path) -> None:
    made = checkpoints(tmp_path, keep=1, keep_best=1)
    save(made, 1, 0.5)
    made.save(state(2), {}, {AGREEMENT: 0.9})
    made.settle()
    (tmp_path / "checkpoints" / "latest").write_text("step-000001\n")  # killed before it was moved
    later = checkpoints(tmp_path, keep=1, keep_best=1)
    save(later, 1)
    later.save(state(3), {}, {AGREEMENT: 0.6})
    later.settle()
    assert later.is_due(4, {AGREEMENT: 0.95}) and (tmp_path / "checkpoints" / "step-000003").is_dir()


def test_alarms_are_read_back(tmp_path: Path) -> None:
    made = checkpoints(tmp_path)
    raised = replace(state(1), alarms=("vote/truncated_share",))
    made.save(raised, {}, {})
    made.settle()
    assert latest_checkpoint(tmp_path)[1] == raised  # type: ignore[index]
