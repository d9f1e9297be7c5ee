"""The buffer owns admission: nothing beyond the bound, batches in group order, every id once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.buffer import Buffer, Slot
from orchestration.rollout_phase import train_key

KEY = train_key(0, 0)


def admit(buffer: Buffer, count: int, step: int = 0) -> list[Slot]:
    return [buffer.admit(KEY, step) for _ in range(count)]


def finish(buffer: Buffer, *group_ids: int) -> None:
    for group_id in group_ids:
        buffer.finish(train_key(0, group_id))


def ids(slots: list[Slot]) -> list[int]:
    return [slot.key.group_id for slot in slots]


def test_strict_admission_stops_at_one_batch() -> None:
    buffer = Buffer(prompts_per_step=2)
    admit(buffer, 2)
    assert buffer.num_free(steps_left=9) == 0
    with pytest.raises(AssertionError, match="staleness bound"):
        buffer.admit(KEY, 0)


def test_a_batch_is_in_group_order_whatever_finished_first() -> None:
    buffer = Buffer(prompts_per_step=3, next_group_id=9)
    admit(buffer, 3)
    finish(buffer, 11, 9)
    assert buffer.owed(3, 0) == [train_key(0, 10)]
    finish(buffer, 10)
    assert ids(buffer.take(3, 0)) == [9, 10, 11]


def test_a_batch_cannot_be_taken_before_it_is_complete() -> None:
    buffer = Buffer(prompts_per_step=2)
    admit(buffer, 2)
    finish(buffer, 0)
    with pytest.raises(AssertionError, match="before they were finished"):
        buffer.take(2, 0)


def test_slots_free_only_on_release() -> None:
    buffer = Buffer(prompts_per_step=1, max_off_policy_steps=1)
    admit(buffer, 2)
    finish(buffer, 0)
    taken = buffer.take(1, 0)
    assert buffer.num_free(steps_left=9) == 0
    buffer.release([slot.key for slot in taken])
    assert buffer.num_free(steps_left=9) == 1
    assert buffer.first_unended == 1
    assert ids(admit(buffer, 1)) == [2]


def test_a_group_finishes_once() -> None:
    buffer = Buffer(prompts_per_step=1)
    admit(buffer, 1)
    finish(buffer, 0)
    with pytest.raises(AssertionError, match="finished twice"):
        finish(buffer, 0)


def test_the_last_steps_of_a_run_start_no_group_that_none_of_them_takes() -> None:
    buffer = Buffer(prompts_per_step=4, max_off_policy_steps=2)
    assert buffer.num_free(steps_left=9) == 12
    assert buffer.num_free(steps_left=2) == 8
    admit(buffer, 8)
    assert buffer.num_free(steps_left=2) == 0


def test_the_slowest_are_carried_over_and_then_waited_for() -> None:
    buffer = Buffer(prompts_per_step=2, max_off_policy_steps=1, num_carried=1)
    assert buffer.num_free(steps_left=9) == 3
    admit(buffer, 3, step=0)
    finish(buffer, 2)
    assert ids_of(buffer.owed(2, 0)) == [0, 1]
    finish(buffer, 1)
    assert buffer.owed(2, 0) == []
    first = buffer.take(2, 0)
    assert ids(first) == [1, 2]
    buffer.release([slot.key for slot in first])
    assert buffer.first_unended == 0 and buffer.ended_beyond == (1, 2)
    admit(buffer, 2, step=1)
    finish(buffer, 3, 4)
    assert ids_of(buffer.owed(2, 1)) == [0]  # after this step its tokens would be two versions old
    finish(buffer, 0)
    assert ids(buffer.take(2, 1)) == [0, 3]


def test_a_resume_goes_on_without_the_groups_that_ended_ahead() -> None:
    buffer = Buffer(3, 1, 2, next_group_id=4, ended_ahead=frozenset({5, 7}))
    assert ids(admit(buffer, 4)) == [4, 6, 8, 9]
    assert buffer.ended_beyond == (5, 7)


def test_a_group_that_is_given_up_counts_as_finished() -> None:
    buffer = Buffer(prompts_per_step=2)
    admit(buffer, 2)
    finish(buffer, 0)
    buffer.finish(train_key(0, 1), is_given_up=True)
    assert [slot.is_given_up for slot in buffer.take(2, 0)] == [False, True]


def ids_of(keys: list) -> list[int]:  # type: ignore[type-arg]
    return [key.group_id for key in keys]


@given(
    seed=st.integers(0, 2**32),
    prompts=st.integers(1, 5),
    bound=st.integers(0, 3),
    carried=st.integers(0, 20),
    drop_share=st.sampled_from([0.0, 0.3]),
)
def test_no_token_is_older_than_the_bound_and_every_id_ends_once(
    seed: int, prompts: int, bound: int, carried: int, drop_share: float
) -> None:
    carried = min(carried, max(0, bound * prompts - 1))
    rng, steps = random.Random(seed), 8
    buffer = Buffer(prompts, bound, carried)
    ended: list[int] = []
    for step in range(steps):
        kept: list[Slot] = []
        while len(kept) < prompts:
            admit(buffer, max(0, buffer.num_free(steps - step)), step)
            while buffer.owed(prompts - len(kept), step):
                waiting = [slot for slot in buffer.in_flight if slot.finished is None]
                finish(buffer, rng.choice(waiting).key.group_id)
            slots = buffer.take(prompts - len(kept), step)
            assert ids(slots) == sorted(ids(slots)) and len(slots) == prompts - len(kept)
            assert all(step - slot.step <= bound for slot in slots)
            dropped = [slot for slot in slots if rng.random() < drop_share]
            kept += [slot for slot in slots if slot not in dropped]
            buffer.release([slot.key for slot in dropped])
            ended += ids(dropped)
        assert carried or all(slot.key.group_id > max(ids(kept)) for slot in buffer.in_flight)
        buffer.release([slot.key for slot in kept])
        ended += ids(kept)
        assert set(ended) >= set(range(buffer.first_unended))
        assert set(buffer.ended_beyond) == {i for i in ended if i > buffer.first_unended}
    assert len(ended) == len(set(ended))


def test_carrying_over_is_as_fast_as_drawing_ahead_and_trains_on_fresher_tokens() -> None:
    def simulated(bound: int, carried: int) -> tuple[float, float]:
        """(mean step time, mean age in steps) where one group in eight takes three times as long."""
        rng, now, ages = random.Random(7), 0.0, 0
        buffer, due = Buffer(8, bound, carried), {}
        for step in range(300):
            for slot in admit(buffer, max(0, buffer.num_free(999)), step):
                due[slot.key.group_id] = now + (3.0 if rng.random() < 1 / 8 else 1.0)
            while buffer.owed(8, step):
                group_id = min(due, key=due.__getitem__)
                now = max(now, due.pop(group_id))
                finish(buffer, group_id)
            slots = buffer.take(8, step)
            ages += sum(step - slot.step for slot in slots)
            now += 0.5
            buffer.release([slot.key for slot in slots])
        return now / 300, ages / 2400

    strict, ahead, carrying = simulated(0, 0), simulated(1, 0), simulated(1, 4)
    assert carrying[0] < 0.8 * strict[0]
    assert carrying[0] < 1.1 * ahead[0]
    assert carrying[1] < 0.7 * ahead[1]
