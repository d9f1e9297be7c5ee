"""One contract for every engine: order kept, seeds honoured, versions stamped, updates lose nothing, waits end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from quorum.errors import RolloutError, WeightSyncError
from quorum.types import (
    Completion,
    GroupKey,
    GroupRequest,
    Prompt,
    Role,
    RolloutGroup,
    SamplingSettings,
    TensorMeta,
    TransferInit,
    VersionSpan,
    WeightManifest,
    WeightUpdate,
)
from rollout.engines.registry import ENGINES
from rollout.settings import SamplerSettings
from tests.integration.engine_weights import EngineSender
from tests.integration.tiny_models import load_weights, save_models

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MARKS = {"vllm": (pytest.mark.stack, pytest.mark.timeout(900))}
OPTIONS = {"fake": {"max_thinking_tokens": 80, "seconds_per_token": 0.006}}
REQUEST = GroupRequest(
    key=GroupKey(0, Role.TRAIN, 5),
    prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.arange(3, 23, dtype=np.int32), text="?"),
    sampling=SamplingSettings(num_completions=4, temperature=0.8, top_p=0.9, max_completion_tokens=24),
    seed=5 << 20,
    required_version=3,
)
LONG = replace(REQUEST, sampling=replace(REQUEST.sampling, num_completions=48, max_completion_tokens=100))
KV_CACHE = ("recompute", "keep")


@dataclass
class Subject:
    """An engine under test, and how weights get into it."""

    engine: Any
    run: Run
    weights: list[tuple[str, Any]] | None
    """Its own; None for an engine that needs no bytes."""
    epochs: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def update(
        self,
        version: int,
        *,
        breaks: bool = False,
        keeps_requests: bool = True,
        kv_cache: Literal["recompute", "keep"] = "recompute",
    ) -> None:
        """An update with the weights that the engine has, or one that ends in the middle."""
        epoch = next(self.epochs)
        if self.weights is None:
            await self.engine.join_transfer(
                TransferInit(
                    backend="gloo", epoch=epoch, host="", port=1, world_size=2, rank_offset=1, timeout_seconds=5
                )
            )
            buckets = ((TensorMeta("w", "float32", (2,)),),)
            await self.engine.update_weights(
                WeightUpdate(
                    manifest=WeightManifest(version=version, incarnation=0, buckets=buckets),
                    epoch=-1 if breaks else epoch,
                    verify=False,
                    timeout_seconds=5,
                    keeps_requests=keeps_requests,
                    kv_cache=kv_cache,
                ),
                "s",
            )
            return
        sender = EngineSender(self.engine, epoch, timeout_seconds=1.0 if breaks else 30.0)
        await sender.connect()
        await sender.push(
            self.weights,
            version,
            keeps_requests=keeps_requests,
            kv_cache=kv_cache,
            num_buckets=2 if breaks else None,
        )

    async def under_way(self, request: GroupRequest) -> asyncio.Task[tuple[RolloutGroup, int]]:
        """A group that has some of its tokens."""
        before = self.engine.probe().tokens_generated
        task = asyncio.ensure_future(self.engine.generate(request, 3))
        async with asyncio.timeout(60):
            while self.engine.probe().tokens_generated < before + 4 * len(request.drawn):
                assert not task.done()
                await asyncio.sleep(0.002)
        return task


@pytest.fixture(scope="module", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    name = request.param
    entry, options = ENGINES[name], OPTIONS.get(name, {})
    model = save_models(tmp_path_factory.mktemp("model"), is_tied=True)[0] if name == "vllm" else Path("none")
    settings = SamplerSettings(
        sampler_id="s", model=str(model), max_model_len=128, engine=name, engine_options=options, kv_cache_gib=0.25
    )
    loop = asyncio.new_event_loop()
    built = entry.target(settings, entry.options(**options))
    loop.run_until_complete(built.start())
    yield Subject(built, loop.run_until_complete, load_weights(model) if name == "vllm" else None)
    loop.run_until_complete(built.stop())
    loop.run_until_complete(built.stop())
    loop.close()


@pytest.fixture
def engine(subject: Subject) -> tuple[Any, Run]:
    return subject.engine, subject.run


def tokens(group: RolloutGroup) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in group.completions]


def test_completions_come_in_index_order_with_the_requests_identity(engine: tuple[Any, Run]) -> None:
    built, run = engine
    group, num_prefilled = run(built.generate(REQUEST, 3))
    assert [completion.index for completion in group.completions] == [0, 1, 2, 3]
    assert group.key == REQUEST.key
    assert (group.prompt_id, group.data_source, group.prompt_text, group.attempts) == ("p", "d", "?", 1)
    assert np.array_equal(group.prompt_token_ids, REQUEST.prompt.token_ids)
    assert 0 < num_prefilled <= 4 * len(REQUEST.prompt.token_ids)
    for completion in group.completions:
        assert completion.token_ids.dtype == np.int32 and completion.rollout_logprobs.dtype == np.float32
        assert 0 < len(completion.token_ids) == len(completion.rollout_logprobs) <= 24
        assert np.all(completion.rollout_logprobs <= 0)
        assert completion.finish_reason in ("stop", "length")


def test_completion_i_depends_on_seed_plus_i_alone(engine: tuple[Any, Run]) -> None:
    built, run = engine
    group, _ = run(built.generate(REQUEST, 3))
    again, _ = run(built.generate(REQUEST, 3))
    assert again.content_hash() == group.content_hash()
    for index in (1, 3):
        single = replace(REQUEST, seed=REQUEST.seed + index, sampling=replace(REQUEST.sampling, num_completions=1))
        assert tokens(run(built.generate(single, 3))[0]) == [tokens(group)[index]]
    other, _ = run(built.generate(replace(REQUEST, seed=6 << 20), 3))
    assert tokens(other) != tokens(group)


def test_groups_sampled_together_equal_groups_sampled_alone(engine: tuple[Any, Run]) -> None:
    built, run = engine
    requests = [replace(REQUEST, key=GroupKey(0, Role.TRAIN, i), seed=i << 20) for i in range(4)]

    async def together() -> list[tuple[RolloutGroup, int]]:
        return await asyncio.wait_for(asyncio.gather(*[built.generate(one, 3) for one in requests]), 120)

    batch = [group.content_hash() for group, _ in run(together())]
    assert batch == [run(built.generate(one, 3))[0].content_hash() for one in requests]
    assert len(set(batch)) == 4


def test_the_version_held_is_stamped_on_every_completion(engine: tuple[Any, Run]) -> None:
    built, run = engine
    group, _ = run(built.generate(REQUEST, 3))
    assert {completion.spans for completion in group.completions} == {(VersionSpan(3, 0),)}


def test_a_probe_counts_the_tokens_made(engine: tuple[Any, Run]) -> None:
    built, run = engine
    before = built.probe()
    group, _ = run(built.generate(REQUEST, 3))
    after = built.probe()
    assert after.tokens_generated - before.tokens_generated == sum(map(len, tokens(group)))
    assert before.num_running == after.num_running == 0


def test_scores_are_one_per_token_after_the_first_and_repeat(engine: tuple[Any, Run]) -> None:
    built, run = engine
    scores = run(built.score([3, 4, 5, 6, 7]))
    assert scores.shape == (4,) and scores.dtype == np.float32 and np.all(scores <= 0)
    assert np.array_equal(scores, run(built.score([3, 4, 5, 6, 7])))


def test_a_part_of_a_group_holds_its_completions_alone(engine: tuple[Any, Run]) -> None:
    built, run = engine
    whole, _ = run(built.generate(REQUEST, 3))
    part, num_prefilled = run(built.generate(replace(REQUEST, indices=(3, 1)), 3))
    assert [completion.index for completion in part.completions] == [1, 3]
    assert tokens(part) == [tokens(whole)[1], tokens(whole)[3]]
    assert num_prefilled <= 2 * len(REQUEST.prompt.token_ids)


def test_completions_are_told_as_they_finish(engine: tuple[Any, Run]) -> None:
    built, run = engine
    told: list[Completion] = []
    group, _ = run(built.generate(replace(LONG, indices=tuple(range(16))), 3, told.append))
    assert sorted(completion.index for completion in told) == list(range(16))
    assert {id(completion) for completion in told} == {id(completion) for completion in group.completions}
    lengths = [len(completion.token_ids) for completion in told]
    assert lengths[0] < lengths[-1]


def test_stopped_completions_end_where_they_are_and_the_others_are_whole(subject: Subject) -> None:
    engine, run = subject.engine, subject.run
    calm, _ = run(engine.generate(LONG, 3))

    async def stop_some() -> RolloutGroup:
        task = await subject.under_way(LONG)
        engine.stop_completions(GroupKey(0, Role.EVAL, 5), range(48))
        engine.stop_completions(LONG.key, range(24, 48))
        return (await asyncio.wait_for(task, 60))[0]

    group = run(stop_some())
    stopped = {completion.index for completion in group.completions if completion.finish_reason == "abort"}
    assert stopped and min(stopped) >= 24
    for completion, whole in zip(group.completions, calm.completions, strict=True):
        num_tokens = len(completion.token_ids)
        assert num_tokens == len(completion.rollout_logprobs)
        assert np.array_equal(completion.token_ids, whole.token_ids[:num_tokens])
        if completion.index in stopped:
            assert num_tokens < len(whole.token_ids) and whole.text.startswith(completion.text)
        else:
            assert (completion.text, completion.finish_reason) == (whole.text, whole.finish_reason)
    engine.stop_completions(LONG.key, range(48))
    assert engine.probe().num_running == 0


@pytest.mark.parametrize("kv_cache", KV_CACHE)
def test_an_update_under_running_completions_loses_no_token_and_says_where_it_came(
    subject: Subject, kv_cache: Literal["recompute", "keep"]
) -> None:
    engine, run = subject.engine, subject.run
    calm, _ = run(engine.generate(LONG, 3))

    async def disturb() -> RolloutGroup:
        task = await subject.under_way(LONG)
        await subject.update(4, kv_cache=kv_cache)
        await subject.update(5, kv_cache=kv_cache)
        return (await asyncio.wait_for(task, 60))[0]

    group = run(disturb())
    assert tokens(group) == tokens(calm)
    changed = [completion for completion in group.completions if len(completion.spans) > 1]
    assert changed
    for completion in changed:
        versions, starts = zip(*completion.spans, strict=True)
        assert versions in ((3, 4), (3, 5), (3, 4, 5))
        assert starts[0] == 0 and list(starts) == sorted(set(starts)) and starts[-1] < len(completion.token_ids)
    assert {completion.spans for completion in group.completions if completion not in changed} <= {(VersionSpan(3, 0),)}


def test_after_a_failed_update_what_runs_stays_paused_until_the_next_one(subject: Subject) -> None:
    engine, run = subject.engine, subject.run
    calm, _ = run(engine.generate(LONG, 3))

    async def disturb() -> RolloutGroup:
        task = await subject.under_way(LONG)
        with pytest.raises(WeightSyncError, match="phase update"):
            await subject.update(4, breaks=True)
        paused = engine.probe()
        await asyncio.sleep(0.3)
        assert paused == engine.probe() and paused.num_running > 0
        await engine.check(20)
        engine.stop_completions(LONG.key, [47])
        await subject.update(5)
        return (await asyncio.wait_for(task, 60))[0]

    group = run(disturb())
    assert tokens(group)[:47] == tokens(calm)[:47]
    assert {span.version for completion in group.completions for span in completion.spans} == {3, 5}


@pytest.mark.parametrize("is_paused", [False, True])
def test_abandoned_groups_raise_and_the_engine_goes_on_with_others(subject: Subject, is_paused: bool) -> None:
    engine, run = subject.engine, subject.run

    async def abandon() -> None:
        task = await subject.under_way(LONG)
        if is_paused:
            with pytest.raises(WeightSyncError):
                await subject.update(4, breaks=True)
        await asyncio.wait_for(engine.abandon(), 30)
        assert engine.probe().num_running == 0
        with pytest.raises(RolloutError, match="abandoned"):
            await asyncio.wait_for(task, 10)
        await engine.abandon()

    run(abandon())
    run(subject.update(3, keeps_requests=False))
    assert tokens(run(engine.generate(REQUEST, 3))[0]) == tokens(run(engine.generate(REQUEST, 3))[0])


def test_an_idle_engine_serves_on_after_a_failed_update_sleep_and_another_update(subject: Subject) -> None:
    engine, run = subject.engine, subject.run
    calm, _ = run(engine.generate(REQUEST, 3))
    with pytest.raises(WeightSyncError, match="phase update"):
        run(subject.update(4, breaks=True, keeps_requests=False))
    run(engine.sleep())
    run(engine.wake())
    run(subject.update(4, keeps_requests=False))
    group, _ = run(engine.generate(REQUEST, 4))
    assert group.content_hash() == calm.content_hash()
    assert {completion.spans for completion in group.completions} == {(VersionSpan(4, 0),)}


def test_a_check_is_answered_while_completions_run(subject: Subject) -> None:
    async def check() -> None:
        task = await subject.under_way(LONG)
        await subject.engine.check(20)
        await asyncio.wait_for(task, 60)

    subject.run(check())


def test_a_second_stop_does_nothing() -> None:
    async def run() -> None:
        for name, entry in ENGINES.items():
            never_started = entry.target(
                SamplerSettings(sampler_id="s", model="none", max_model_len=64, engine=name), entry.options()
            )
            await never_started.stop()
            await never_started.stop()

    asyncio.run(run())
