import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quorum.errors import (
    EngineDied,
    EngineTimeout,
    ResourceError,
    RolloutError,
    StaleSamplerError,
    WeightSyncError,
)
from quorum.types import (
    GroupKey,
    GroupRequest,
    Prompt,
    Role,
    SamplingSettings,
    TensorMeta,
    TransferInit,
    WeightManifest,
    WeightUpdate,
    group_seed,
)
from rollout.sampler import NO_VERSION, Sampler, SamplerSettings


def settings(**options: Any) -> SamplerSettings:
    return SamplerSettings(sampler_id="s0", model="none", max_model_len=64, engine="fake", engine_options=options)


def request(group_id: int = 1, *, version: int = 0, k: int = 8, tokens: int = 64) -> GroupRequest:
    key = GroupKey(0, Role.TRAIN, group_id)
    return GroupRequest(
        key=key,
        prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.array([3, 4, 5], dtype=np.int32), text="?"),
        sampling=SamplingSettings(num_completions=k, temperature=1.0, top_p=1.0, max_completion_tokens=tokens),
        seed=group_seed(0, key),
        required_version=version,
    )


def update(version: int, epoch: int = 1, *, keeps_requests: bool = False) -> WeightUpdate:
    manifest = WeightManifest(version=version, incarnation=0, buckets=((TensorMeta("w", "float32", (2,)),),))
    return WeightUpdate(manifest=manifest, epoch=epoch, verify=True, timeout_seconds=5, keeps_requests=keeps_requests)


def join(epoch: int) -> TransferInit:
    return TransferInit(
        backend="gloo", epoch=epoch, host="127.0.0.1", port=1, world_size=2, rank_offset=1, timeout_seconds=5
    )


def test_a_receipt_counts_what_the_group_holds() -> None:
    async def run() -> None:
        sampler = Sampler(settings())
        info = await sampler.start()
        receipt, group = await sampler.generate(request(tokens=9))
        assert receipt.num_tokens == sum(len(completion.token_ids) for completion in group.completions)
        assert sum(receipt.finish_counts.values()) == 8
        assert receipt.finish_counts["length"] == sum(c.finish_reason == "length" for c in group.completions)
        assert receipt.content_hash == group.content_hash()
        assert (receipt.num_prompt_tokens, receipt.num_prefilled_tokens, receipt.versions) == (3, 3, (0,))
        assert info.pids[0] == info.pid and len(info.child_pids) >= 1
        assert (await sampler.probe()).tokens_generated == receipt.num_tokens
        await sampler.stop()
        await sampler.stop()

    asyncio.run(run())


def test_a_request_for_another_version_is_refused() -> None:
    async def run() -> None:
        sampler = Sampler(replace(settings(), initial_version=NO_VERSION))
        await sampler.start()
        with pytest.raises(StaleSamplerError, match="s0 holds policy version -1, the request needs 0"):
            await sampler.generate(request())
        await sampler.join_transfer(join(1))
        receipt = await sampler.update_weights(update(4))
        assert (receipt.version, set(receipt.checksums)) == (4, {"w"})
        assert (await sampler.generate(request(version=4)))[0].versions == (4,)
        with pytest.raises(StaleSamplerError):
            await sampler.generate(request(version=3))
        await sampler.stop()

    asyncio.run(run())


def test_a_failed_update_leaves_no_version_and_names_the_sampler() -> None:
    async def run() -> None:
        sampler = Sampler(settings())
        await sampler.start()
        await sampler.join_transfer(join(1))
        with pytest.raises(WeightSyncError, match="sampler s0, version 1: phase update: epoch 2 was not joined"):
            await sampler.update_weights(update(1, epoch=2))
        assert (await sampler.probe()).version == NO_VERSION
        with pytest.raises(StaleSamplerError):
            await sampler.generate(request())
        await sampler.stop()

    asyncio.run(run())


def test_an_update_while_groups_run_is_refused_and_the_version_stays() -> None:
    async def run() -> None:
        sampler = Sampler(settings(seconds_per_group=0.2))
        await sampler.start()
        await sampler.join_transfer(join(1))
        running = asyncio.ensure_future(sampler.generate(request()))
        await asyncio.sleep(0.05)
        assert (await sampler.probe()).num_running == 8
        with pytest.raises(WeightSyncError, match="1 groups are running; wait for them, or abandon them"):
            await sampler.update_weights(update(1))
        with pytest.raises(WeightSyncError, match="1 groups are running"):
            await sampler.sleep()
        assert (await running)[0].versions == (0,)
        await sampler.stop()

    asyncio.run(run())


def test_a_start_that_fails_says_why_and_a_refused_group_is_named() -> None:
    async def run() -> None:
        with pytest.raises(ResourceError, match="sampler s0: its fake engine did not start: no memory left"):
            await Sampler(settings(fail_start="no memory left")).start()
        sampler = Sampler(settings(fail_groups=(7,)))
        with pytest.raises(ResourceError, match="s0 is not started"):
            await sampler.generate(request())
        await sampler.start()
        with pytest.raises(RolloutError, match="group 7"):
            await sampler.generate(request(7))
        assert (await sampler.probe()).num_running == 0
        await sampler.stop()

    asyncio.run(run())


def test_an_update_that_keeps_requests_runs_under_them_and_newer_requests_wait_for_it() -> None:
    async def run() -> None:
        sampler = Sampler(settings(seconds_per_group=0.3, sync_seconds=0.2))
        await sampler.start()
        await sampler.join_transfer(join(1))
        running = asyncio.ensure_future(sampler.generate(request()))
        await asyncio.sleep(0.1)
        updating = asyncio.ensure_future(sampler.update_weights(update(1, keeps_requests=True)))
        await asyncio.sleep(0.05)
        with pytest.raises(StaleSamplerError):
            await sampler.generate(request(2, version=1))
        with pytest.raises(WeightSyncError, match="1 groups are running and an update; wait"):
            await sampler.update_weights(update(2, keeps_requests=True))
        later = asyncio.ensure_future(sampler.generate(replace(request(3), allows_newer=True)))
        assert (await updating).version == 1
        assert (await running)[0].versions == (0, 1)
        assert (await later)[0].versions == (1,)
        await sampler.stop()

    asyncio.run(run())


def test_a_newer_version_serves_only_requests_that_allow_it_and_an_older_one_none() -> None:
    async def run() -> None:
        sampler = Sampler(replace(settings(), initial_version=3))
        await sampler.start()
        assert (await sampler.generate(replace(request(version=2), allows_newer=True)))[0].versions == (3,)
        with pytest.raises(StaleSamplerError):
            await sampler.generate(request(version=2))
        with pytest.raises(StaleSamplerError):
            await sampler.generate(replace(request(version=4), allows_newer=True))
        await sampler.stop()

    asyncio.run(run())


def test_after_a_failed_update_running_groups_wait_for_the_next_one_or_are_abandoned() -> None:
    async def run() -> None:
        sampler = Sampler(settings(seconds_per_group=0.1, fail_updates=(1, 3)))
        await sampler.start()
        await sampler.join_transfer(join(1))
        running = asyncio.ensure_future(sampler.generate(request()))
        await asyncio.sleep(0.05)
        with pytest.raises(WeightSyncError, match="sampler s0, version 1: phase update: bucket 1 of 1"):
            await sampler.update_weights(update(1, keeps_requests=True))
        with pytest.raises(StaleSamplerError, match="holds policy version -1"):
            await sampler.generate(replace(request(2), allows_newer=True))
        before = await sampler.probe()
        await asyncio.sleep(0.2)
        assert await sampler.probe() == before and not running.done()
        await sampler.update_weights(update(2, keeps_requests=True))
        assert (await running)[0].versions == (0, 2)

        running = asyncio.ensure_future(sampler.generate(request(version=2)))
        await asyncio.sleep(0.05)
        with pytest.raises(WeightSyncError):
            await sampler.update_weights(update(3, keeps_requests=True))
        await sampler.abandon()
        with pytest.raises(RolloutError, match="abandoned"):
            await running
        await sampler.update_weights(update(4))
        assert (await sampler.generate(request(version=4)))[0].versions == (4,)
        await sampler.stop()

    asyncio.run(run())


def test_a_sampler_that_slept_holds_no_version_until_an_update() -> None:
    async def run() -> None:
        sampler = Sampler(settings())
        await sampler.start()
        await sampler.join_transfer(join(1))
        await sampler.sleep()
        with pytest.raises(StaleSamplerError):
            await sampler.generate(request())
        await sampler.wake()
        with pytest.raises(StaleSamplerError):
            await sampler.generate(request())
        await sampler.update_weights(update(1))
        assert (await sampler.generate(request(version=1)))[0].versions == (1,)
        await sampler.stop()

    asyncio.run(run())


def test_a_part_of_a_group_holds_its_completions_with_their_indices_in_the_whole() -> None:
    async def run() -> None:
        sampler = Sampler(settings())
        await sampler.start()
        _, whole = await sampler.generate(request())
        receipt, part = await sampler.generate(replace(request(), indices=(5, 2)))
        assert [completion.index for completion in part.completions] == [2, 5]
        for completion in part.completions:
            assert np.array_equal(completion.token_ids, whole.completions[completion.index].token_ids)
        assert sum(receipt.finish_counts.values()) == 2
        assert receipt.num_tokens == sum(len(completion.token_ids) for completion in part.completions)
        await sampler.stop()

    asyncio.run(run())


def test_a_check_names_an_engine_that_died_or_stands_still_inside_a_living_sampler() -> None:
    async def run() -> None:
        sampler = Sampler(settings(crash_groups=(7,), seconds_per_group=5))
        await sampler.start()
        await sampler.check(1.0)
        running = asyncio.ensure_future(sampler.generate(request(1)))
        await asyncio.sleep(0.01)
        for failing in (sampler.generate(request(7)), running, sampler.check(1.0)):
            with pytest.raises(EngineDied):
                await failing
        await sampler.stop()

        sampler = Sampler(settings(freeze_groups=(8,)))
        await sampler.start()
        running = asyncio.ensure_future(sampler.generate(request(8)))
        await asyncio.sleep(0.01)
        with pytest.raises(EngineTimeout, match=r"within 0.1 s"):
            await sampler.check(0.1)
        running.cancel()
        await sampler.stop()

    asyncio.run(run())


def test_an_update_ordered_right_behind_an_abandonment_waits_for_it_and_waiting_groups_are_abandoned_too() -> None:
    async def run() -> None:
        sampler = Sampler(settings(seconds_per_group=5, sync_seconds=0.1))
        await sampler.start()
        await sampler.join_transfer(join(1))
        running = asyncio.ensure_future(sampler.generate(request()))
        await asyncio.sleep(0.01)
        first = asyncio.ensure_future(sampler.update_weights(update(1, keeps_requests=True)))
        await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(sampler.generate(replace(request(2), allows_newer=True)))
        await asyncio.sleep(0.01)
        abandoned = asyncio.ensure_future(sampler.abandon())
        await first
        second = asyncio.ensure_future(sampler.update_weights(update(2)))
        await asyncio.gather(abandoned, second)
        for group in (running, waiting):
            with pytest.raises(RolloutError, match="abandoned"):
                await group
        probe = await sampler.probe()
        assert (probe.version, probe.num_running) == (2, 0)
        await sampler.stop()

    asyncio.run(run())
