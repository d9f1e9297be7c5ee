import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quorum.types import Completion, GroupKey, GroupRequest, Prompt, Role, RolloutGroup, SamplingSettings
from rollout.early_stop import EarlyStop
from rollout.sampler import Sampler
from rollout.settings import SamplerSettings

NUM_COMPLETIONS = 16
VOTE_ONLY = tuple(range(8, 16))
REQUEST = GroupRequest(
    key=GroupKey(0, Role.TRAIN, 1),
    prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.array([3], dtype=np.int32), text="?", extractor="boxed"),
    sampling=SamplingSettings(num_completions=NUM_COMPLETIONS, temperature=1, top_p=1, max_completion_tokens=500),
    seed=1 << 20,
    required_version=0,
    vote_only=VOTE_ONLY,
)


class Voter:
    """Stands in for the handle of a voting replica: `decided.remote(...)` returns something to await."""

    def __init__(self, answer: Callable[[list[Any]], bool], seconds: float = 0.0) -> None:
        self.calls: list[tuple[list[Any], int, str | None]] = []
        self.num_open = self.most_open = 0
        self._answer, self._seconds = answer, seconds
        self.decided = self

    def remote(self, texts: list[Any], num_completions: int, extractor: str | None) -> asyncio.Future[bool]:
        self.calls.append((texts, num_completions, extractor))
        return asyncio.ensure_future(self._reply(texts))

    async def _reply(self, texts: list[Any]) -> bool:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            await asyncio.sleep(self._seconds)
            return self._answer(texts)
        finally:
            self.num_open -= 1


def completion(index: int) -> Completion:
    return Completion(
        index=index,
        token_ids=np.array([1], dtype=np.int32),
        text=f"text {index}",
        rollout_logprobs=np.array([-1.0], dtype=np.float32),
        finish_reason="stop",
        spans=(),
    )


def draw(voter: Any, **changes: Any) -> tuple[RolloutGroup, RolloutGroup]:
    """The group with this voter, and as it is without one."""

    async def run() -> tuple[RolloutGroup, RolloutGroup]:
        options = {"max_thinking_tokens": 400, "seconds_per_token": 0.001}
        sampler = Sampler(
            SamplerSettings(sampler_id="s", model="none", max_model_len=64, engine="fake", engine_options=options)
        )
        await sampler.start()
        _, calm = await sampler.generate(replace(REQUEST, vote_only=(), **changes))
        _, group = await sampler.generate(replace(REQUEST, voter=voter, **changes))
        await sampler.stop()
        return group, calm

    return asyncio.run(run())


def test_vote_only_completions_stop_once_the_vote_is_decided_and_trained_ones_are_whole() -> None:
    voter = Voter(lambda texts: len(texts) >= 6)
    group, calm = draw(voter)
    stopped = [one.index for one in group.completions if one.finish_reason == "abort"]
    assert stopped and set(stopped) <= set(VOTE_ONLY)
    for one, whole in zip(group.completions, calm.completions, strict=True):
        if one.index in stopped:
            assert len(one.token_ids) == len(one.rollout_logprobs) < len(whole.token_ids)
            assert np.array_equal(one.token_ids, whole.token_ids[: len(one.token_ids)])
        else:
            assert (one.text, one.finish_reason) == (whole.text, whole.finish_reason)
    texts, num_completions, extractor = voter.calls[-1]
    assert (num_completions, extractor) == (NUM_COMPLETIONS, "boxed")
    for index, text, finish_reason in texts:
        assert (text, finish_reason) == (calm.completions[index].text, calm.completions[index].finish_reason)


def test_one_question_is_under_way_at_a_time_and_what_finishes_meanwhile_goes_into_the_next() -> None:
    voter = Voter(lambda texts: False, seconds=0.02)
    group, calm = draw(voter)
    assert group.content_hash() == calm.content_hash()
    assert voter.most_open == 1
    sizes = [len(texts) for texts, _, _ in voter.calls]
    assert sizes == sorted(set(sizes)) and 1 < len(sizes) < NUM_COMPLETIONS


def test_a_part_of_a_group_stops_its_own_completions_alone() -> None:
    group, _ = draw(Voter(lambda texts: True), indices=(0, 1, 8, 9, 10, 11))
    assert [one.index for one in group.completions] == [0, 1, 8, 9, 10, 11]
    assert all(one.finish_reason == "stop" for one in group.completions if one.index < 2)


@pytest.mark.parametrize("kind", ["fails", "is silent", "cannot be called"])
def test_a_voter_that_does_not_answer_stops_nothing_and_is_complained_of(kind: str) -> None:
    def fail(texts: list[Any]) -> bool:
        raise RuntimeError("no voter")

    voter = {"fails": Voter(fail), "is silent": Voter(bool, seconds=60), "cannot be called": None}[kind]

    async def run() -> tuple[list[Any], list[str]]:
        stops: list[Any] = []
        complaints: list[str] = []
        request = replace(REQUEST, voter=voter)
        with EarlyStop(request, stops.append, complaints.append, answer_seconds=0.05) as early_stop:
            for index in range(NUM_COMPLETIONS - 1):
                early_stop.note(completion(index))
                await asyncio.sleep(0.01)
        return stops, complaints

    stops, complaints = asyncio.run(run())
    assert stops == []
    assert len(complaints) == 1 and "the voter did not say whether the vote is decided" in complaints[0]


def test_a_sampler_logs_a_broken_voter_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(texts: list[Any]) -> bool:
        raise RuntimeError("no voter")

    async def run() -> None:
        options = {"max_thinking_tokens": 50, "seconds_per_token": 0.001}
        sampler = Sampler(
            SamplerSettings(sampler_id="s", model="none", max_model_len=64, engine="fake", engine_options=options)
        )
        await sampler.start()
        for group_id in range(3):
            voter = Voter(fail)
            key = GroupKey(0, Role.TRAIN, group_id)
            _, group = await sampler.generate(replace(REQUEST, key=key, voter=voter))
            assert len(voter.calls) == 1
            assert all(one.finish_reason != "abort" for one in group.completions)
        await sampler.stop()

    with caplog.at_level(logging.WARNING, "rollout.sampler"):
        asyncio.run(run())
    assert [record.message for record in caplog.records] == [
        "sampler s: the voter did not say whether the vote is decided (RuntimeError: no voter); "
        "groups are drawn to their ends"
    ]


def test_nobody_is_asked_when_only_trained_completions_run() -> None:
    async def run() -> int:
        voter = Voter(lambda texts: True)
        with EarlyStop(replace(REQUEST, voter=voter, vote_only=(3,)), print, print) as early_stop:
            early_stop.note(completion(3))
            early_stop.note(completion(4))
            await asyncio.sleep(0.01)
        return len(voter.calls)

    assert asyncio.run(run()) == 0
