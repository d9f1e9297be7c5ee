"""Weight sync over real sampler actors with the fake engine, and a learner that stands in for the ranks."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs.rollout_sections import RestartSection, RolloutSection
from configs.schema import DeadlineSection
from learner.rank import Progress
from orchestration.weight_sync import WeightSync
from quorum.errors import RankFailure, WeightSyncError
from quorum.types import (
    GroupKey,
    GroupRequest,
    Prompt,
    Role,
    SamplingSettings,
    TensorMeta,
    TransferInit,
    WeightManifest,
)
from rollout.handle import SamplerState
from rollout.pool import SamplerPool
from rollout.settings import NO_VERSION, SamplerSettings

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(300)]
METAS = (TensorMeta("a", "bfloat16", (2, 3)), TensorMeta("b", "float32", (4,)))


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield ray
    ray.shutdown()


class Learner:
    """Keeps account of epochs; bytes need not travel for fake engines."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.opened: list[tuple[int, int]] = []
        """(epoch, world size)"""
        self.closed: list[int] = []
        self.sent: list[tuple[int, int]] = []
        """(version, epoch)"""
        self.fails_to_send = False
        self.is_dead = False
        self.before_send: Callable[[], None] = lambda: None

    def publish(self, version: int, incarnation: int, of: str) -> WeightManifest:
        return WeightManifest(version=version, incarnation=incarnation, buckets=(METAS,))

    def checksums(self, version: int, of: str) -> dict[str, str]:
        return {meta.name: hashlib.blake2b(repr(meta).encode(), digest_size=8).hexdigest() for meta in METAS}

    def open_transfer(self, backend: str, epoch: int, world_size: int, port: int) -> tuple[str, int]:
        self.opened.append((epoch, world_size))
        return "127.0.0.1", 1

    def join_transfer(self, init: TransferInit) -> Any:
        return self._ray.put(None)

    def close_transfer(self, epoch: int) -> None:
        self.closed.append(epoch)

    def send(self, version: int, epoch: int, timeout_seconds: float, of: str) -> list[Any]:
        self.before_send()
        self.sent.append((version, epoch))
        if self.fails_to_send:
            return [self._ray.remote(_cannot_send).options(num_cpus=0, max_retries=0).remote()]
        return [self._ray.put(None)]

    def progress(self) -> list[Progress | None]:
        return [None if self.is_dead else Progress(1, "ready")]

    def kill(self) -> None:
        self.is_dead = True


def _cannot_send() -> None:
    raise WeightSyncError("bucket 0 of 1 was not sent")


def start(
    ray: Any, *engine_options: dict[str, Any], max_restarts: int = 9, bound: int = 0
) -> tuple[WeightSync, SamplerPool, Learner]:
    settings = [
        SamplerSettings(
            sampler_id=f"s{i}",
            model="none",
            max_model_len=64,
            engine="fake",
            engine_options=options,
            initial_version=NO_VERSION,
        )
        for i, options in enumerate(engine_options)
    ]
    deadlines = DeadlineSection(start_seconds=60, rollout_seconds=30, probe_seconds=2, sync_seconds=10, stop_seconds=5)
    rollout = RolloutSection(
        max_off_policy_steps=bound, restart=RestartSection(max_restarts=max_restarts, backoff_seconds=0.1)
    )
    actor_options = [{"num_cpus": 0.1}] * len(settings)
    pool = SamplerPool.start(settings, deadlines=deadlines, actor_options=actor_options, section=rollout)
    sync_section = SimpleNamespace(port=0, join_seconds=10.0, verify_every=1, kv_cache="recompute")
    config: Any = SimpleNamespace(sync=sync_section, deadlines=deadlines, rollout=rollout)
    learner: Any = Learner(ray)
    return WeightSync(config, learner, pool, incarnation=0), pool, learner


def until(condition: Callable[[], bool], sync: WeightSync, pool: SamplerPool, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, pool.describe()
        pool.pump(0.1)
        sync.catch_up()


def request(group_id: int, version: int) -> GroupRequest:
    return GroupRequest(
        key=GroupKey(0, Role.TRAIN, group_id),
        prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.array([3, 4], dtype=np.int32), text="?"),
        sampling=SamplingSettings(num_completions=2, temperature=1.0, top_p=1.0, max_completion_tokens=64),
        seed=0,
        required_version=version,
    )


def test_a_version_reaches_every_sampler_and_the_epoch_serves_the_next_one_too(ray_cluster: Any) -> None:
    sync, pool, learner = start(ray_cluster, {}, {})
    try:
        assert pool.num_ready == 0, "no sampler works before it has weights"
        stats = sync.publish(0)
        assert (stats.version, stats.num_checked_tensors) == (0, 4)
        assert pool.num_ready == 2 and {sampler.version for sampler in pool.samplers} == {0}
        sync.publish(1)
        assert learner.opened == [(1, 3)] and learner.sent == [(0, 1), (1, 1)]
    finally:
        pool.stop(5)


def test_a_replacement_gets_the_weights_alone_while_the_others_work(ray_cluster: Any) -> None:
    sync, pool, learner = start(ray_cluster, {"seconds_per_group": 0.2}, {"seconds_per_group": 0.2})
    try:
        sync.publish(0)
        survivor = pool.samplers[1]
        os.kill(pool.samplers[0].info.pid, signal.SIGKILL)
        until(lambda: pool.roster.num_lost == 1, sync, pool)
        finished = 0
        pool.submit(request(0, 0))
        deadline = time.monotonic() + 60
        while pool.num_ready < 2 and time.monotonic() < deadline:
            finished += len(pool.pump(0.1))
            if not pool.num_unfinished:
                pool.submit(request(finished, 0))
            sync.catch_up()
            assert survivor.state is SamplerState.READY and not survivor.is_in_transfer
        assert pool.num_ready == 2 and finished > 0
        assert learner.opened == [(1, 3), (2, 2)] and 2 in learner.closed
        until(lambda: not pool.num_unfinished, sync, pool)
        sync.publish(1)
        assert learner.opened[-1] == (3, 3), "the next version goes to both in a new epoch"
        assert {sampler.version for sampler in pool.samplers} == {1}
    finally:
        pool.stop(5)


def test_a_sampler_that_dies_in_a_transfer_is_replaced_and_the_others_have_the_version(ray_cluster: Any) -> None:
    sync, pool, learner = start(ray_cluster, {"sync_seconds": 0.5}, {"sync_seconds": 0.5})
    try:
        victim = pool.samplers[0].info.pid
        learner.before_send = lambda: os.kill(victim, signal.SIGKILL) if os.path.exists(f"/proc/{victim}") else None
        sync.publish(0)
        learner.before_send = lambda: None
        assert [(s.sampler_id, s.version) for s in pool.alive] == [("s1", 0)]
        assert any("s0 is lost: in the transfer of version 0" in event for event in pool.take_events())
        until(lambda: pool.num_ready == 2, sync, pool)
    finally:
        pool.stop(5)


def test_a_sampler_that_is_stopped_in_a_transfer_is_found_and_replaced(ray_cluster: Any) -> None:
    sync, pool, learner = start(ray_cluster, {}, {})
    try:
        sync.publish(0)
        os.kill(pool.samplers[0].info.pid, signal.SIGSTOP)
        began = time.monotonic()
        sync.publish(1)
        assert time.monotonic() - began < 60
        assert [(s.sampler_id, s.version) for s in pool.alive] == [("s1", 1)]
    finally:
        pool.stop(5)


def test_one_whose_update_fails_again_and_again_is_replaced(ray_cluster: Any) -> None:
    sync, pool, learner = start(ray_cluster, {"fail_updates": (0,)}, {}, max_restarts=0)
    try:
        sync.publish(0)
        assert [(s.sampler_id, s.version) for s in pool.alive] == [("s1", 0)]
        assert any("s0 is lost: it failed 3 transfers" in event for event in pool.take_events())
    finally:
        pool.stop(5)


def test_a_learner_that_cannot_send_is_the_error_and_a_dead_rank_is_named(ray_cluster: Any) -> None:
    sync, pool, learner = start(ray_cluster, {})
    try:
        learner.fails_to_send = True
        with pytest.raises(WeightSyncError, match="learner rank 0 failed in the transfer of version 0: .*not sent"):
            sync.publish(0)
        learner.is_dead = True
        with pytest.raises(RankFailure, match="learner rank 0 died or hangs in weight sync"):
            sync.publish(0)
        sync.settle()
    finally:
        pool.stop(5)


def test_samplers_on_their_way_out_hand_back_their_groups_before_a_new_version(ray_cluster: Any) -> None:
    sync, pool, _ = start(ray_cluster, {"seconds_per_group": 60}, {"seconds_per_group": 60}, bound=1)
    try:
        sync.publish(0)
        for i in range(2):
            pool.submit(request(i, 0))
        pool.resize(1)
        assert pool.num_unfinished == 2 and len(pool.samplers) == 2
        sync.publish(1)
        assert len(pool.samplers) == 1 and pool.num_unfinished == 2
    finally:
        pool.stop(5)
