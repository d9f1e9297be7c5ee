"""The pool over real Ray actors with the fake engine."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from configs.schema import DeadlineSection
from quorum.errors import EngineDied, EngineTimeout, ResourceError, RolloutError
from quorum.types import GroupKey, GroupRequest, Prompt, Role, SamplingSettings, group_seed
from rollout.pool import FinishedGroup, SamplerPool
from rollout.settings import SamplerSettings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield ray
    ray.shutdown()


def start(*engine_options: dict[str, Any], rollout_seconds: float = 60, start_seconds: float = 120, **more: Any) -> Any:
    settings = [
        SamplerSettings(sampler_id=f"s{i}", model="none", max_model_len=64, engine="fake", engine_options=options)
        for i, options in enumerate(engine_options)
    ]
    deadlines = DeadlineSection(start_seconds=start_seconds, rollout_seconds=rollout_seconds)
    actor_options = more.pop("actor_options", [{"num_cpus": 1}] * len(settings))
    return SamplerPool.start(settings, deadlines=deadlines, actor_options=actor_options, **more)


def request(group_id: int, k: int = 4) -> GroupRequest:
    key = GroupKey(0, Role.TRAIN, group_id)
    return GroupRequest(
        key=key,
        prompt=Prompt(prompt_id="p", data_source="d", token_ids=np.array([3, 4], dtype=np.int32), text="?"),
        sampling=SamplingSettings(num_completions=k, temperature=1.0, top_p=1.0, max_completion_tokens=64),
        seed=group_seed(0, key),
        required_version=0,
    )


def drain(pool: SamplerPool, seconds: float = 60) -> list[FinishedGroup]:
    finished: list[FinishedGroup] = []
    deadline = time.monotonic() + seconds
    while pool.num_unfinished and time.monotonic() < deadline:
        finished += pool.next_finished(1.0)
    return finished


def test_groups_are_shared_out_and_equal_those_of_one_sampler(ray_cluster: Any) -> None:
    pool = start({"seconds_per_group": 0.02}, {"seconds_per_group": 0.02}, max_groups_per_sampler=2)
    try:
        for i in range(12):
            pool.submit(request(i))
        two = {done.receipt.group_id: done for done in drain(pool)}
        assert set(two) == set(range(12))
        assert {done.receipt.sampler_id for done in two.values()} == {"s0", "s1"}
        group = ray_cluster.get(two[3].group_ref, timeout=30)
        assert group.group_id == 3 and group.content_hash() == two[3].receipt.content_hash
        assert pool.next_finished(0.1) == []
        assert pool.num_workers == 2
        assert all(len(sampler.pids) >= 2 for sampler in pool.samplers)
    finally:
        pool.stop(10)
    pool = start({})
    try:
        for i in range(12):
            pool.submit(request(i))
        one = {done.receipt.group_id: done.receipt.content_hash for done in drain(pool)}
        assert one == {i: done.receipt.content_hash for i, done in two.items()}
    finally:
        pool.stop(10)
        pool.stop(10)


def test_groups_come_back_while_others_still_run_and_outlive_their_sampler(ray_cluster: Any) -> None:
    pool = start({})
    try:
        pool.submit(request(1))
        [done] = drain(pool)
    finally:
        pool.stop(10)
    assert ray_cluster.get(done.group_ref, timeout=30).group_id == 1


def test_a_sampler_that_makes_no_token_is_named_with_its_groups(ray_cluster: Any) -> None:
    pool = start({"hang_groups": (5, 6)}, {"hang_groups": (5, 6)}, rollout_seconds=2)
    try:
        for i in (5, 7, 6):
            pool.submit(request(i))
        began = time.monotonic()
        with pytest.raises(
            EngineTimeout, match=r"sampler s\d has made no token for 2 s .* with groups 5, 6 running; its probe answers"
        ):
            drain(pool, 30)
        assert time.monotonic() - began < 10
        assert any("groups 5, 6, last progress 2 s ago" in line for line in pool.describe())
    finally:
        pool.stop(10)


def test_a_sampler_that_dies_is_named_with_its_groups(ray_cluster: Any) -> None:
    pool = start({"die_groups": (9,), "seconds_per_group": 0.5})
    try:
        pool.submit(request(8))
        pool.submit(request(9))
        with pytest.raises(EngineDied, match=r"sampler s0 with groups 8, 9 is gone"):
            drain(pool, 30)
    finally:
        pool.stop(10)


def test_a_group_that_the_engine_refuses_is_an_error_by_name(ray_cluster: Any) -> None:
    pool = start({"fail_groups": (3,)})
    try:
        pool.submit(request(3))
        with pytest.raises(RolloutError, match="sampler s0 with groups 3: group 3 is told to fail"):
            drain(pool, 30)
    finally:
        pool.stop(10)


def test_a_start_that_fails_names_the_sampler_and_the_cause(ray_cluster: Any) -> None:
    with pytest.raises(ResourceError, match="sampler s1: its fake engine did not start: no memory left"):
        start({}, {"fail_start": "no memory left"})


def test_a_slow_start_and_one_that_cannot_be_placed_are_told_apart(ray_cluster: Any) -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError) as caught:
        start(
            {"start_seconds": 300.0},
            {},
            start_seconds=15,
            actor_options=[{"num_cpus": 1}, {"num_cpus": 64, "num_gpus": 2}],
        )
    assert time.monotonic() - began < 40
    assert "sampler s0: its engine was not ready within 15 s" in str(caught.value)
    assert "sampler s1 could not be placed within 15 s: it needs 64 CPU, 2 GPU; the cluster has 4 CPU" in str(
        caught.value
    )


def test_no_thread_is_left_behind() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name == "stderr-tail"]
