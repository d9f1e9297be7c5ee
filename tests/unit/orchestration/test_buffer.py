"""The buffer owns admission: nothing beyond the bound, batches in group order, every id once."""

from __future__ import annotations

import pytest

from orchestration.buffer import Buffer
from orchestration.rollout_phase import train_key
from quorum.types import Receipt
from tests.builders import make_group


def finish(buffer: Buffer, group_id: int) -> None:
    receipt = Receipt.of(make_group([[3, 1]], group_id=group_id), sampler_id="s", num_prefilled_tokens=1, seconds=0.0)
    buffer.finish(train_key(0, group_id), receipt, f"group-{group_id}", None)


def test_strict_admission_stops_at_one_batch() -> None:
    buffer = Buffer(prompts_per_step=2)
    buffer.admit(train_key(0, 0))
    buffer.admit(train_key(0, 1))
    assert buffer.num_free == 0
    with pytest.raises(AssertionError, match="staleness bound"):
        buffer.admit(train_key(0, 2))


def test_a_batch_is_in_group_order_whatever_finished_first() -> None:
    buffer = Buffer(prompts_per_step=3, next_group_id=9)
    for group_id in (9, 10, 11):
        buffer.admit(train_key(0, group_id))
    for group_id in (11, 9):
        finish(buffer, group_id)
    finish(buffer, 10)
    keys = [train_key(0, group_id) for group_id in (11, 9, 10)]
    assert [slot.key.group_id for slot in buffer.take(keys)] == [9, 10, 11]


def test_a_batch_cannot_be_taken_before_it_is_complete() -> None:
    buffer = Buffer(prompts_per_step=2)
    buffer.admit(train_key(0, 0))
    buffer.admit(train_key(0, 1))
    finish(buffer, 0)
    with pytest.raises(AssertionError, match="before they were finished"):
        buffer.take([train_key(0, 0), train_key(0, 1)])


def test_slots_free_only_on_release() -> None:
    buffer = Buffer(prompts_per_step=1, max_off_policy_steps=1)
    buffer.admit(train_key(0, 0))
    buffer.admit(train_key(0, 1))
    finish(buffer, 0)
    assert buffer.num_free == 0
    buffer.release([train_key(0, 0)])
    assert buffer.num_free == 1
    buffer.admit(train_key(0, 2))
    assert buffer.next_group_id == 3


def test_ids_are_admitted_in_order_and_each_once() -> None:
    buffer = Buffer(prompts_per_step=4)
    buffer.admit(train_key(0, 0))
    with pytest.raises(AssertionError, match="1 is next"):
        buffer.admit(train_key(0, 0))


def test_a_group_finishes_once() -> None:
    buffer = Buffer(prompts_per_step=1)
    buffer.admit(train_key(0, 0))
    finish(buffer, 0)
    with pytest.raises(AssertionError, match="finished twice"):
        finish(buffer, 0)
