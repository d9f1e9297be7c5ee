"""Which group goes first, to which sampler, and which runs alone. No Ray: handles without actors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.rollout_sections import DispatchSection
from quorum.types import GroupKey, GroupRequest, Prompt, Receipt, Role, SamplingSettings
from rollout.backlog import Backlog
from rollout.handle import Call, SamplerHandle, SamplerState, Work
from rollout.health import Health
from rollout.least_loaded import LeastLoaded
from rollout.settings import SamplerSettings
from rollout.splitting import Splits
from rollout.suspects import MOST_LOSSES_ALONE, Suspects
from rollout.work_queue import WorkQueue


def request(group_id: int, version: int = 0, prompt: str = "p", k: int = 4) -> GroupRequest:
    return GroupRequest(
        key=GroupKey(0, Role.TRAIN, group_id),
        prompt=Prompt(prompt_id=prompt, data_source="d", token_ids=np.array([3, 4], dtype=np.int32), text="?"),
        sampling=SamplingSettings(num_completions=k, temperature=1.0, top_p=1.0, max_completion_tokens=64),
        seed=0,
        required_version=version,
    )


def receipt(group_id: int, tokens_per_completion: int, k: int = 4) -> Receipt:
    return Receipt(
        group_id=group_id,
        sampler_id="s",
        finish_counts={"stop": k},
        num_tokens=tokens_per_completion * k,
        num_prompt_tokens=2,
        num_prefilled_tokens=2,
        versions=(0,),
        seconds=1.0,
        content_hash="",
    )


def sampler(slot: int, state: SamplerState = SamplerState.READY) -> SamplerHandle:
    return SamplerHandle(slot, SamplerSettings(sampler_id=f"s{slot}", model="none", max_model_len=64), None, state)


def order_of(queue: WorkQueue) -> list[int]:
    return [queue.pop().request.key.group_id for _ in range(len(queue))]


def test_groups_go_in_the_order_of_submission_and_what_came_back_at_its_old_place() -> None:
    queue = WorkQueue("admitted")
    for i in (4, 2, 7):
        queue.add(request(i))
    lost = queue.pop()
    queue.add(request(9))
    queue.put(lost)
    assert order_of(queue) == [4, 2, 7, 9]


def test_longest_first_goes_by_the_prompts_last_visit_within_a_step() -> None:
    queue = WorkQueue("longest_first")
    for prompt, length in (("short", 5), ("long", 50)):
        queue.learn(request(0, prompt=prompt), receipt(0, length))
    queue.add(request(1, version=3, prompt="short"))
    queue.add(request(2, version=3, prompt="unknown"))
    queue.add(request(3, version=3, prompt="long"))
    queue.add(request(4, version=4, prompt="long"))
    assert order_of(queue) == [3, 2, 1, 4]


def test_an_expected_length_is_the_limit_until_a_group_has_finished() -> None:
    queue = WorkQueue("admitted")
    assert queue.expected_tokens(request(0)) == 2 + 4 * 64
    queue.learn(request(0), receipt(0, 10))
    assert queue.expected_tokens(request(0)) == 2 + 4 * 10
    queue.learn(request(0), receipt(0, 20))
    assert queue.expected_tokens(request(0)) == pytest.approx(2 + 4 * 11)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 100)), min_size=1, max_size=40))
def test_the_least_loaded_sampler_with_room_is_found_whatever_changed_before(
    changes: Sequence[tuple[int, float]],
) -> None:
    samplers = [sampler(slot) for slot in range(5)]
    heap = LeastLoaded()
    heap.offer_all(samplers)
    for slot, load in changes:
        samplers[slot].load = load
        heap.offer(samplers[slot])
        found = heap.take(lambda one: one.slot != 3)
        assert found is not None and found.load == min(one.load for one in samplers if one.slot != 3)
        heap.offer_all(samplers)
    assert heap.take(lambda one: False) is None


def lose(work: Work, suspects: Suspects, num_lost: int, alone: bool) -> str:
    work.losses += 1
    work.losses_alone += alone
    if suspects.is_convicted(work, num_lost):
        return "convicted"
    return "alone" if suspects.takes(work) else "free"


def test_a_group_runs_alone_after_two_losses_and_is_convicted_after_two_more_alone() -> None:
    work, suspects = Work(request(1)), Suspects()
    assert [lose(work, suspects, 1, False), lose(work, suspects, 2, False)] == ["free", "alone"]
    assert [lose(work, suspects, 3, True), lose(work, suspects, 4, True)] == ["alone", "convicted"]


def test_where_samplers_die_without_it_too_two_losses_alone_convict_nobody() -> None:
    work, suspects = Work(request(1)), Suspects()
    lose(work, suspects, 5, False)
    lose(work, suspects, 6, False)
    verdicts = [lose(work, suspects, num_lost, True) for num_lost in (8, 10, 12, 14, 16, 18)]
    assert verdicts == ["alone"] * (MOST_LOSSES_ALONE - 1) + ["convicted"]


def test_a_suspect_waits_for_an_idle_sampler_that_gets_nothing_else_meanwhile() -> None:
    suspects, suspect = Suspects(), Work(request(1), losses=2)
    busy, busier = sampler(0), sampler(1)
    busy.add(1, Call(Work(request(8), 10.0), None, None))
    busier.add(2, Call(Work(request(9), 20.0), None, None))
    suspects.takes(suspect)
    assert list(suspects.placed([busier, busy])) == []
    assert busy.reserved_for is suspect and busier.reserved_for is None
    busier.remove(2)
    assert list(suspects.placed([busier, busy])) == [], "it has a sampler of its own already"
    busy.remove(1)
    assert list(suspects.placed([busier, busy])) == [(suspect, busy)]
    assert len(suspects) == 0


def test_a_split_group_is_whole_again_when_its_last_part_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = Splits(enabled=True)
    whole = Work(replace(request(1, k=5), vote_only=(3, 4)), 100.0)
    assert splits.can_split(whole) and not Splits(enabled=False).can_split(whole)
    first, second = splits.split(whole, 2)
    assert (first.request.indices, second.request.indices) == ((0, 1), (2, 3, 4))
    assert (first.request.vote_only, second.request.vote_only) == ((), (3, 4))
    assert (first.expected_tokens, second.expected_tokens) == (40.0, 60.0)
    assert not splits.can_split(first)
    joined: list[object] = []

    class Joiner:
        def __init__(self) -> None:
            self.join = self

        def options(self, num_returns: int) -> Joiner:
            return self

        def remote(self, receipts: object, *groups: object, num_completions: int) -> tuple[str, str]:
            assert num_completions == 5
            joined.extend([receipts, groups])
            return "receipt", "group"

    monkeypatch.setattr(splits, "_joiner", Joiner())
    one, two = receipt(1, 3, k=2), receipt(1, 3, k=3)
    assert splits.add(second, two, "tail") is None and splits.num_joining == 0
    found = splits.add(first, one, "head")
    assert found is not None and found[1:] == ("receipt", "group")
    assert joined == [[one, two], ("head", "tail")]
    assert splits.num_joining == 1
    assert splits.close(found[0]) == whole.request and splits.close(found[0]) is None


def test_an_old_join_does_not_close_a_group_that_was_split_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = Splits(enabled=True)
    joiner = SimpleNamespace(
        join=SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=lambda *a, **k: "rg"))
    )
    monkeypatch.setattr(splits, "_joiner", joiner)
    whole = Work(request(1, k=2))
    parts = splits.split(whole, 2)
    splits.add(parts[0], receipt(1, 3, k=1), "a")
    found = splits.add(parts[1], receipt(1, 3, k=1), "b")
    splits.clear()
    splits.split(whole, 2)
    assert found is not None and splits.close(found[0]) is None


def test_a_part_that_is_given_up_ends_the_whole_group_once_nothing_of_it_runs() -> None:
    backlog = Backlog(DispatchSection(split_groups="tail"))
    whole = Work(request(1, k=6))
    first, second, third = backlog.splits.split(whole, 3)
    backlog.put_back(third)
    assert backlog.give_up(first) is None, "the second part still runs"
    assert backlog.waiting() == [], "the third does not start any more"
    assert backlog.splits.is_doomed(second)
    assert backlog.give_up(second) == whole.request
    assert not backlog.splits.is_doomed(second)


def test_a_suspect_without_a_sampler_does_not_hold_up_one_that_has_one() -> None:
    suspects, a, b = Suspects(), Work(request(1), losses=2), Work(request(2), losses=2)
    one, two = sampler(0), sampler(1)
    one.add(1, Call(Work(request(8), 10.0), None, None))
    two.add(2, Call(Work(request(9), 20.0), None, None))
    suspects.takes(a)
    suspects.takes(b)
    assert list(suspects.placed([one, two])) == []
    assert (one.reserved_for, two.reserved_for) == (a, b)
    two.remove(2)
    assert list(suspects.placed([two])) == [(b, two)], "the first one's sampler is gone"


def test_a_suspect_that_runs_elsewhere_gives_its_first_sampler_free() -> None:
    suspects, work = Suspects(), Work(request(1), losses=2)
    slow, other = sampler(0), sampler(1)
    slow.add(1, Call(Work(request(8), 1.0), None, None))
    other.add(2, Call(Work(request(9), 9.0), None, None))
    suspects.takes(work)
    assert list(suspects.placed([slow, other])) == [] and slow.reserved_for is work
    slow.enter(SamplerState.SUSPECT)
    other.remove(2)
    assert list(suspects.placed([slow, other])) == [(work, other)]
    assert slow.reserved_for is None


def test_a_straggler_is_told_of_once_and_again_after_it_was_fast() -> None:
    samplers = [sampler(slot) for slot in range(3)]

    def finish(slot: int, seconds: float, count: int) -> None:
        for _ in range(count):
            samplers[slot].note_finished(replace(receipt(0, 10), seconds=seconds))

    for slot in range(3):
        finish(slot, 10.0 if slot == 1 else 1.0, 2)
    assert Health.stragglers(samplers) == [], "two groups say little"
    for slot in range(3):
        finish(slot, 10.0 if slot == 1 else 1.0, 1)
    [(slow, ratio)] = Health.stragglers(samplers)
    assert slow is samplers[1] and ratio == pytest.approx(10.0)
    assert Health.stragglers(samplers) == []
    finish(1, 1.0, 60)
    assert Health.stragglers(samplers) == [] and not samplers[1].is_slow
    finish(1, 10.0, 60)
    assert [one for one, _ in Health.stragglers(samplers)] == [samplers[1]]
