"""Weights that change under running completions of a real vLLM engine, and an engine process that stops or dies.

One engine in this process serves the whole file; it holds the base model except inside the tests that say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil
import pytest

from quorum.errors import EngineDied, EngineTimeout, WeightSyncError
from quorum.types import GroupKey, GroupRequest, Prompt, Role, RolloutGroup, SamplingSettings, group_seed
from rollout.engines.vllm import VllmEngine
from rollout.engines.vllm_options import VllmOptions
from rollout.settings import SamplerSettings
from tests.integration.engine_weights import EngineSender
from tests.integration.tiny_models import load_weights, save_models

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

KvCache = Literal["recompute", "keep"]
KV_CACHE = ("recompute", "keep")


@dataclass
class Stage:
    """The engine, the two models' weights, and what the groups are when nothing disturbs them."""

    engine: VllmEngine
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    base: list[tuple[str, Any]]
    perturbed: list[tuple[str, Any]]
    sender: EngineSender
    pids: list[int]
    calm: list[RolloutGroup]

    async def groups(self, requests: list[GroupRequest], version: int = 0) -> list[RolloutGroup]:
        drawn = await asyncio.wait_for(asyncio.gather(*[self.engine.generate(r, version) for r in requests]), 120)
        return [group for group, _ in drawn]

    async def under_way(self, requests: list[GroupRequest]) -> asyncio.Task[list[RolloutGroup]]:
        """Groups whose completions have some 10 tokens each."""
        num_completions = sum(len(request.drawn) for request in requests)
        before = self.engine.probe().tokens_generated
        task = asyncio.ensure_future(self.groups(requests))
        async with asyncio.timeout(60):
            while self.engine.probe().tokens_generated < before + 10 * num_completions:
                assert not task.done()
                await asyncio.sleep(0.002)
        return task

    async def through_update(
        self, weights: list[tuple[str, Any]], version: int, kv_cache: KvCache
    ) -> list[RolloutGroup]:
        task = await self.under_way(REQUESTS)
        await self.sender.push(weights, version, kv_cache=kv_cache)
        return await task


def request(group_id: int, *, k: int = 16, tokens: int = 250) -> GroupRequest:
    key = GroupKey(0, Role.TRAIN, group_id)
    token_ids = np.array([3 + (group_id * 7 + i * i) % 50 for i in range(40)], dtype=np.int32)
    return GroupRequest(
        key=key,
        prompt=Prompt(prompt_id=str(group_id), data_source="test", token_ids=token_ids, text="?"),
        sampling=SamplingSettings(num_completions=k, temperature=1.0, top_p=1.0, max_completion_tokens=tokens),
        seed=group_seed(7, key),
        required_version=0,
        allows_newer=True,
    )


REQUESTS = [request(i) for i in range(4)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    base, perturbed = save_models(tmp_path_factory.mktemp("models"), is_tied=True)
    settings = SamplerSettings(sampler_id="s", model=str(base), max_model_len=320, kv_cache_gib=0.25)
    engine = VllmEngine(settings, VllmOptions())
    loop = asyncio.new_event_loop()
    run = loop.run_until_complete
    before = child_pids()
    run(engine.start())
    sender = EngineSender(engine, epoch=1)
    run(sender.connect())
    pids = [pid for pid in child_pids() if pid not in before and "EngineCore" in psutil.Process(pid).name()]
    assert len(pids) == 1
    stage = Stage(engine, run, load_weights(base), load_weights(perturbed), sender, pids, [])
    stage.calm = run(stage.groups(REQUESTS))
    yield stage
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
    run(engine.stop())
    loop.close()


@pytest.fixture
def back_to_base(stage: Stage) -> Iterator[None]:
    yield
    stage.run(stage.sender.push(stage.base, 0, keeps_requests=False))


def child_pids() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


def pairs(calm: list[RolloutGroup], disturbed: list[RolloutGroup]) -> list[tuple[Any, Any]]:
    return [
        pair
        for one, other in zip(calm, disturbed, strict=True)
        for pair in zip(one.completions, other.completions, strict=True)
    ]


@pytest.mark.parametrize("kv_cache", KV_CACHE)
def test_the_same_weights_in_flight_change_no_bit(stage: Stage, kv_cache: KvCache) -> None:
    disturbed = stage.run(stage.through_update(stage.base, 1, kv_cache))
    assert [group.content_hash() for group in disturbed] == [group.content_hash() for group in stage.calm]
    changed = [c for group in disturbed for c in group.completions if len(c.spans) > 1]
    assert len(changed) >= 3
    assert all([span.version for span in completion.spans] == [0, 1] for completion in changed)


@pytest.mark.parametrize("kv_cache", KV_CACHE)
def test_other_weights_in_flight_leave_the_tokens_before_as_they_were_and_vllm_counts_the_same(
    stage: Stage, kv_cache: KvCache, back_to_base: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rollout"):
        disturbed = stage.run(stage.through_update(stage.perturbed, 1, kv_cache))
    assert [record.message for record in caplog.records] == []
    num_changed = num_other = 0
    for calm, completion in pairs(stage.calm, disturbed):
        ours = completion.spans[-1]
        num_kept = ours.start if ours.version == 1 else len(completion.token_ids)
        assert num_kept > 0
        assert np.array_equal(completion.token_ids[:num_kept], calm.token_ids[:num_kept])
        assert np.array_equal(completion.rollout_logprobs[:num_kept], calm.rollout_logprobs[:num_kept])
        num_changed += ours.version == 1
        num_other += ours.version == 1 and not np.array_equal(completion.token_ids, calm.token_ids)
    assert num_changed >= 3 and num_other >= 0.8 * num_changed


def test_vllm_labels_its_tokens_with_the_load_that_the_adapter_counts(stage: Stage) -> None:
    from vllm import SamplingParams

    async def label() -> Any:
        params = SamplingParams(max_tokens=3, ignore_eos=True)
        async for output in stage.engine._llm.generate({"prompt_token_ids": [3, 4]}, params, "labels"):
            last = output.outputs[0]
        return last

    spans = stage.run(label()).weight_versions
    assert [(span.version, span.start) for span in spans] == [(stage.engine._updater.stamp, 0)]


def test_recomputed_cache_is_the_new_policys_and_kept_cache_is_neither_ones(stage: Stage, back_to_base: None) -> None:
    gaps = {}
    for kv_cache in KV_CACHE:
        disturbed = stage.run(stage.through_update(stage.perturbed, 1, kv_cache))
        tails = [(g, c) for g in disturbed for c in g.completions if len(c.spans) > 1 and len(c.token_ids) > 60]
        gaps[kv_cache] = np.concatenate([tail_gap(stage, group, completion) for group, completion in tails[:8]])
        stage.run(stage.sender.push(stage.base, 0, keeps_requests=False))
    assert gaps["recompute"].mean() < 0.01
    assert gaps["keep"].mean() > 5 * gaps["recompute"].mean()


def tail_gap(stage: Stage, group: RolloutGroup, completion: Any) -> np.ndarray:
    """|log-probability when sampled - the new policy's|, of the tokens after the update."""
    scores = stage.run(stage.engine.score([*group.prompt_token_ids.tolist(), *completion.token_ids.tolist()]))
    start = completion.spans[1].start
    own = scores[len(group.prompt_token_ids) - 1 :]
    return np.abs(own[start:] - completion.rollout_logprobs[start:])


def test_requests_after_an_update_that_kept_the_cache_never_hit_blocks_of_the_old_weights(
    stage: Stage, back_to_base: None
) -> None:
    stage.run(stage.sender.push(stage.perturbed, 1, keeps_requests=False))
    expected = [group.content_hash() for group in stage.run(stage.groups(REQUESTS, 1))]
    stage.run(stage.sender.push(stage.base, 0, keeps_requests=False))

    async def later() -> tuple[list[RolloutGroup], bool]:
        task = await stage.under_way(REQUESTS)
        await stage.sender.push(stage.perturbed, 1, kv_cache="keep")
        was_running = not task.done()
        groups, _ = await asyncio.gather(stage.groups(REQUESTS, 1), task)
        return groups, was_running

    groups, was_running = stage.run(later())
    assert was_running
    assert [group.content_hash() for group in groups] == expected


def test_an_update_that_was_left_half_done_in_the_worker_does_not_block_the_next(stage: Stage) -> None:
    stage.run(stage.engine._llm.collective_rpc("start_weight_update"))
    sender = EngineSender(stage.engine, epoch=2, timeout_seconds=1.0)
    stage.run(sender.connect())
    with pytest.raises(WeightSyncError, match="phase start"):
        stage.run(sender.push(stage.base, 0, keeps_requests=False))
    stage.sender = EngineSender(stage.engine, epoch=3)
    stage.run(stage.sender.connect())
    stage.run(stage.sender.push(stage.base, 0, keeps_requests=False))
    assert stage.run(stage.groups(REQUESTS))[0].content_hash() == stage.calm[0].content_hash()


@pytest.mark.wall_clock
def test_an_engine_process_that_stands_still_is_noticed_by_a_check_and_goes_on_when_it_can(stage: Stage) -> None:
    stage.run(stage.engine.check(10))
    os.kill(stage.pids[0], signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"within 0.5 s"):
        stage.run(stage.engine.check(0.5))
    assert time.monotonic() - began < 2
    os.kill(stage.pids[0], signal.SIGCONT)
    stage.run(stage.engine.check(10))
    assert stage.run(stage.groups(REQUESTS[:1]))[0].content_hash() == stage.calm[0].content_hash()


@pytest.mark.wall_clock
def test_a_killed_engine_process_ends_every_wait_within_seconds(stage: Stage) -> None:
    async def kill() -> dict[str, tuple[BaseException, float]]:
        task = await stage.under_way(REQUESTS)
        # An update that nobody feeds: it is in the worker when the process dies.
        update = asyncio.ensure_future(stage.sender.push(stage.base, 1, num_buckets=0))
        await asyncio.sleep(0.3)
        assert not update.done() and not task.done()
        began = time.monotonic()
        os.kill(stage.pids[0], signal.SIGKILL)
        ends = {}
        for name, waiting in (
            ("generate", task),
            ("update", update),
            ("check", stage.engine.check(10)),
            ("abandon", stage.engine.abandon()),
            ("later", stage.groups(REQUESTS[:1])),
        ):
            try:
                await asyncio.wait_for(waiting, 20)
            except (EngineDied, WeightSyncError) as exc:
                ends[name] = (exc, time.monotonic() - began)
        return ends

    ends = stage.run(kill())
    assert {name: type(exc) for name, (exc, _) in ends.items()} == {
        "generate": EngineDied,
        "update": WeightSyncError,
        "check": EngineDied,
        "abandon": EngineDied,
        "later": EngineDied,
    }
    assert max(seconds for _, seconds in ends.values()) < 5
