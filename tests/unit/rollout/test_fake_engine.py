import asyncio
import pickle
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quorum.errors import RolloutError
from quorum.types import Completion, GroupKey, GroupRequest, Prompt, Role, RolloutGroup, SamplingSettings
from rollout.engines.completions import Load, RunningCompletion
from rollout.engines.fake import FakeEngine
from rollout.engines.fake_clock import SimulatedClock, SimulatedCompletion
from rollout.engines.fake_options import FakeOptions
from rollout.settings import SamplerSettings

pytestmark = pytest.mark.wall_clock

REQUEST = GroupRequest(
    key=GroupKey(0, Role.TRAIN, 1),
    prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.array([3], dtype=np.int32), text="?"),
    sampling=SamplingSettings(num_completions=8, temperature=1, top_p=1, max_completion_tokens=500),
    seed=1 << 20,
    required_version=0,
)


def engine(**options: Any) -> FakeEngine:
    settings = SamplerSettings(sampler_id="s", model="none", max_model_len=64, engine="fake")
    return FakeEngine(settings, FakeOptions(**options))


def timed(work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    began = time.monotonic()
    result = asyncio.run(work)
    return result, time.monotonic() - began


def simulated(num_tokens: int, seconds: float, index: int = 0) -> SimulatedCompletion:
    whole = Completion(
        index=index,
        token_ids=np.zeros(num_tokens, dtype=np.int32),
        text="",
        rollout_logprobs=np.zeros(num_tokens, dtype=np.float32),
        finish_reason="stop",
        spans=(),
    )
    return SimulatedCompletion(RunningCompletion(REQUEST.key, index, [Load("0", 0, 0)]), whole, seconds)


def test_tokens_come_one_by_one_and_not_while_the_clock_stands_still() -> None:
    time = [100.0]
    clock = SimulatedClock(lambda: time[0], None)
    one = simulated(10, 5.0)
    clock.add([one])
    time[0] = 102.0
    assert one.num_tokens(clock.now) == 4
    clock.stand_still()
    time[0] = 110.0
    assert one.num_tokens(clock.now) == 4
    clock.go_on()
    time[0] = 112.9
    assert one.num_tokens(clock.now) == 9
    time[0] = 113.0
    assert one.num_tokens(clock.now) == 10 and one.end == clock.now


def test_completions_beyond_the_slots_wait_and_move_up_when_one_ends_early() -> None:
    time = [0.0]
    clock = SimulatedClock(lambda: time[0], 2)
    jobs = [simulated(10, seconds, i) for i, seconds in enumerate((4.0, 6.0, 1.0, 1.0))]
    clock.add(jobs)
    assert [job.begin for job in jobs] == [0, 0, 4, 5]
    time[0] = 1.0
    clock.remove(jobs[:1])
    assert [job.begin for job in jobs[1:]] == [0, 1, 2]


def test_lengths_depend_on_the_seed_alone_and_are_short_and_long() -> None:
    many = replace(REQUEST, sampling=replace(REQUEST.sampling, num_completions=64))
    group, _ = asyncio.run(engine(max_thinking_tokens=400).generate(many, 0))
    again, _ = asyncio.run(engine(max_thinking_tokens=400, seconds_per_token=1e-6).generate(many, 7))
    assert again.content_hash() == group.content_hash()
    lengths = sorted(len(completion.token_ids) for completion in group.completions)
    assert lengths[len(lengths) // 2] < 120 and lengths[-1] > 250
    plain, _ = asyncio.run(engine().generate(many, 0))
    for completion, short in zip(group.completions, plain.completions, strict=True):
        assert completion.text.lstrip(".") == short.text


def test_a_group_takes_the_time_of_its_longest_completion_and_slots_share_it_out() -> None:
    (group, _), seconds = timed(engine(seconds_per_token=0.01).generate(REQUEST, 0))
    longest = max(len(completion.token_ids) for completion in group.completions)
    assert 0.01 * longest <= seconds
    total = sum(len(completion.token_ids) for completion in group.completions)
    _, seconds_one_by_one = timed(engine(seconds_per_token=0.01, max_running=1).generate(REQUEST, 0))
    assert seconds < 0.01 * total <= seconds_one_by_one


def test_a_stopped_completion_frees_its_slot() -> None:
    async def run() -> tuple[RolloutGroup, float]:
        one = engine(seconds_per_group=0.2, max_running=4)
        began = time.monotonic()
        task = asyncio.ensure_future(one.generate(REQUEST, 0))
        other = asyncio.ensure_future(one.generate(replace(REQUEST, key=GroupKey(0, Role.TRAIN, 2)), 0))
        await asyncio.sleep(0.05)
        one.stop_completions(REQUEST.key, range(8))
        group, _ = await task
        await other
        return group, time.monotonic() - began

    group, seconds = asyncio.run(run())
    assert {completion.finish_reason for completion in group.completions} == {"abort"}
    assert 0.45 <= seconds < 0.8


def test_a_group_is_padded_to_the_size_asked_for() -> None:
    group, _ = asyncio.run(engine(payload_bytes=65_536).generate(REQUEST, 0))
    assert 65_536 <= len(pickle.dumps(group)) < 70_000
    assert group.prompt_text.strip() == "?"


def test_faults_befall_the_first_attempts_alone_when_told_so() -> None:
    one = engine(fail_groups=(1,), faulty_attempts=2)
    for attempt in range(2):
        with pytest.raises(RolloutError, match="told to fail"):
            asyncio.run(one.generate(replace(REQUEST, attempt=attempt), 0))
    group, _ = asyncio.run(one.generate(replace(REQUEST, attempt=2), 0))
    assert group.attempts == 3


def test_a_hung_group_makes_no_token_while_others_finish_and_can_be_abandoned() -> None:
    async def run() -> None:
        one = engine(hang_groups=(1,))
        hung = asyncio.ensure_future(one.generate(REQUEST, 0))
        await asyncio.sleep(0)
        other, _ = await one.generate(replace(REQUEST, key=GroupKey(0, Role.TRAIN, 2)), 0)
        probe = one.probe()
        assert probe.num_running == 8
        assert probe.tokens_generated == sum(len(completion.token_ids) for completion in other.completions)
        await one.check(0.1)
        await one.abandon()
        with pytest.raises(RolloutError, match="abandoned"):
            await hung

    asyncio.run(run())
