"""The pool over real Ray actors with the fake engine."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from configs.rollout_sections import DispatchSection, RestartSection, RolloutSection
from configs.schema import DeadlineSection
from quorum.errors import ResourceError, RolloutError
from quorum.types import GroupKey, GroupRequest, Prompt, Role, SamplingSettings, group_seed
from rollout.pool import FinishedGroup, SamplerPool
from rollout.settings import SamplerSettings
from tests.integration.run_helpers import alive, seconds_until_gone

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield ray
    ray.shutdown()


def start(
    *engine_options: dict[str, Any],
    rollout_seconds: float = 60,
    start_seconds: float = 120,
    probe_seconds: float = 15,
    max_restarts: int = 0,
    most: int = 1024,
    dispatch: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    settings = [
        SamplerSettings(sampler_id=f"s{i}", model="none", max_model_len=64, engine="fake", engine_options=options)
        for i, options in enumerate(engine_options)
    ]
    deadlines = DeadlineSection(
        start_seconds=start_seconds, rollout_seconds=rollout_seconds, probe_seconds=probe_seconds, stop_seconds=5
    )
    section = RolloutSection(
        restart=RestartSection(max_restarts=max_restarts, backoff_seconds=0.1, max_backoff_seconds=0.5),
        dispatch=DispatchSection(max_completions_per_sampler=most, **(dispatch or {})),
    )
    actor_options = more.pop("actor_options", [{"num_cpus": 0.1}] * len(settings))
    return SamplerPool.start(settings, deadlines=deadlines, actor_options=actor_options, section=section, **more)


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
        finished += pool.pump(1.0)
    return finished


def test_groups_are_shared_out_and_equal_those_of_one_sampler(ray_cluster: Any) -> None:
    pool = start({"seconds_per_group": 0.02}, {"seconds_per_group": 0.02}, most=8)
    try:
        for i in range(12):
            pool.submit(request(i))
        two = {done.receipt.group_id: done for done in drain(pool)}
        assert set(two) == set(range(12))
        assert {done.receipt.sampler_id for done in two.values()} == {"s0", "s1"}
        group = ray_cluster.get(two[3].group_ref, timeout=30)
        assert group.group_id == 3 and group.content_hash() == two[3].receipt.content_hash
        assert pool.pump(0.1) == []
        assert [sampler.num_workers for sampler in pool.samplers] == [1, 1]
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


def test_a_sampler_that_makes_no_token_is_named_with_its_groups_which_go_elsewhere(ray_cluster: Any) -> None:
    pool = start({"hang_groups": (5, 6)}, {}, rollout_seconds=2, most=8)
    try:
        hanging, free = pool.samplers
        for i in (5, 6):
            pool.submit(request(i))
            if i == 5 and not hanging.calls:  # whichever is first, both are to be on the one that hangs
                pool.samplers.reverse()
        told: list[str] = []
        began = time.monotonic()
        done = drain(pool, 30)
        told += pool.take_events()
        assert {one.request.key.group_id for one in done if one.receipt} == {5, 6}
        assert time.monotonic() - began < 15
        assert any("made no token for 2 s" in line and "its probe answers: the engine hangs" in line for line in told)
        assert pool.roster.num_lost == 1 and pool.samplers == [free]
    finally:
        pool.stop(10)


def test_groups_of_a_sampler_that_dies_are_drawn_by_its_replacement_to_the_same_tokens(ray_cluster: Any) -> None:
    calm = start({})
    try:
        for i in range(6):
            calm.submit(request(i))
        hashes = {done.request.key.group_id: done.receipt.content_hash for done in drain(calm)}
    finally:
        calm.stop(10)
    pool = start({"seconds_per_group": 1.0}, {"seconds_per_group": 1.0}, max_restarts=9)
    try:
        for i in range(6):
            pool.submit(request(i))
        victim = pool.samplers[0]
        lost = [call.work.request.key.group_id for call in victim.calls.values()]
        os.kill(victim.info.pid, signal.SIGKILL)
        done = {one.request.key.group_id: one for one in drain(pool)}
        assert {group_id: one.receipt.content_hash for group_id, one in done.items()} == hashes
        assert {group_id for group_id, one in done.items() if one.request.attempt} == set(lost) and lost
        deadline = time.monotonic() + 30
        while pool.num_ready < 2 and time.monotonic() < deadline:
            pool.pump(0.2)
        assert [sampler.sampler_id for sampler in pool.samplers] == ["s1", "s0.1"]
        [told] = pool.take_events()
        assert told.startswith("sampler s0 is lost: ") and "another takes its place" in told
    finally:
        pool.stop(10)


def test_an_idle_sampler_that_dies_or_stops_is_noticed_too(ray_cluster: Any) -> None:
    pool = start({}, {}, probe_seconds=1.0, max_restarts=9)
    stopped = pool.samplers[1].info.pid
    try:
        os.kill(pool.samplers[0].info.pid, signal.SIGKILL)
        os.kill(stopped, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while pool.roster.num_lost < 2 and time.monotonic() < deadline:
            pool.pump(0.2)
        assert pool.roster.num_lost == 2
        told = pool.take_events()
        assert any("s1 is lost: it has not answered for" in line for line in told), told
    finally:
        pool.stop(10)
    seconds_until_gone([stopped], 5)


def test_a_group_that_kills_samplers_is_convicted_alone_and_the_others_are_drawn(ray_cluster: Any) -> None:
    pool = start({"die_groups": (9,), "seconds_per_group": 0.3}, max_restarts=20)
    try:
        for i in (8, 9, 10, 11):
            pool.submit(request(i))
        done = drain(pool, 90)
        assert {one.request.key.group_id for one in done if one.receipt} == {8, 10, 11}
        assert [one.request.key.group_id for one in done if not one.receipt] == [9]
        assert any(
            "group 9 is quarantined: 4 samplers were lost with it, 2 of them ran it alone" in line
            for line in pool.take_events()
        )
    finally:
        pool.stop(10)


def test_random_kills_convict_no_group(ray_cluster: Any) -> None:
    """Groups keep coming until all kills are done, so that a fast machine does not end before the last one."""
    pool = start({"seconds_per_group": 0.2}, {"seconds_per_group": 0.2}, max_restarts=100, most=12)
    rng = random.Random(5)
    try:
        done, submitted, kills, next_kill = [], 0, 0, time.monotonic()
        deadline = time.monotonic() + 120
        while (kills < 8 or pool.num_unfinished) and time.monotonic() < deadline:
            while kills < 8 and pool.num_unfinished < 12:
                pool.submit(request(submitted))
                submitted += 1
            done += pool.pump(0.1)
            if kills < 8 and pool.alive and time.monotonic() > next_kill:
                next_kill = time.monotonic() + rng.uniform(0.5, 1.5)
                os.kill(rng.choice(pool.alive).info.pid, signal.SIGKILL)
                kills += 1
        told = pool.take_events()
        assert kills == 8 and not [line for line in told if "quarantined" in line], told
        assert sorted(one.request.key.group_id for one in done if one.receipt) == list(range(submitted))
    finally:
        pool.stop(10)


def test_a_group_that_samplers_refuse_is_given_up_and_the_others_go_on(ray_cluster: Any) -> None:
    pool = start({"fail_groups": (3,)})
    try:
        for i in (2, 3, 4):
            pool.submit(request(i))
        done = drain(pool, 30)
        assert {one.request.key.group_id for one in done if one.receipt} == {2, 4}
        [told] = pool.take_events()
        assert "group 3 is quarantined: sampler s0 with groups 3: group 3 is told to fail" in told
    finally:
        pool.stop(10)


def test_too_few_samplers_end_the_pool_by_name(ray_cluster: Any) -> None:
    pool = start({"die_groups": (9,)}, max_restarts=0)
    try:
        pool.submit(request(9))
        with pytest.raises(RolloutError, match=r"0 samplers are left, rollout.min_samplers is 1, and none will come"):
            drain(pool, 30)
    finally:
        pool.stop(10)


def test_a_pool_grows_and_shrinks_and_no_group_is_lost(ray_cluster: Any) -> None:
    pool = start({"seconds_per_group": 0.3}, {"seconds_per_group": 0.3}, {"seconds_per_group": 0.3}, most=4)
    try:
        pool.resize(1)
        for i in range(8):
            pool.submit(request(i))
        done = pool.pump(1.0)
        assert len(pool.alive) == 1
        with pytest.raises(ResourceError, match="there are places for 3 samplers"):
            pool.resize(2)
        done += drain(pool)
        assert sorted(one.request.key.group_id for one in done) == list(range(8))
        assert sum("has left" in line for line in pool.take_events()) == 2
    finally:
        pool.stop(10)


def test_a_split_group_is_drawn_by_all_and_equals_the_whole_one(ray_cluster: Any) -> None:
    slow = {"seconds_per_group": 0.5}
    pool = start(slow, slow, slow, dispatch={"split_groups": "tail"})
    try:
        pool.submit(request(1, k=7))
        assert [len(sampler.calls) for sampler in pool.samplers] == [1, 1, 1]
        [done] = drain(pool)
        assert sum(done.receipt.finish_counts.values()) == 7
        group = ray_cluster.get(done.group_ref, timeout=30)
        assert [completion.index for completion in group.completions] == list(range(7))
        assert done.receipt.sampler_id.count("s") == 3
    finally:
        pool.stop(10)
    pool = start({})
    try:
        pool.submit(request(1, k=7))
        [whole] = drain(pool)
        assert whole.receipt.content_hash == done.receipt.content_hash == group.content_hash()
    finally:
        pool.stop(10)


def test_a_sampler_that_leaves_ends_its_engine_before_its_place_goes(ray_cluster: Any) -> None:
    pool = start({}, {})
    released: list[tuple[int, bool]] = []
    try:
        leaving = pool.roster.samplers[1]
        berths = pool.roster._berths
        berths.release = lambda slot: released.append((slot, bool(alive([leaving.info.watchdog_pid]))))
        pool.resize(1)
        assert leaving not in pool.samplers and released == []
        deadline = time.monotonic() + 20
        while not released and time.monotonic() < deadline:
            pool.pump(0.1)
        assert released == [(1, False)], "its own stop had ended the watchdog"
        seconds_until_gone([leaving.info.pid], 10)
    finally:
        pool.stop(10)


def test_a_sampler_that_leaves_hands_back_what_it_does_not_finish(ray_cluster: Any) -> None:
    pool = start({"seconds_per_group": 60}, {"seconds_per_group": 60})
    try:
        for i in range(4):
            pool.submit(request(i))
        leaving = pool.samplers[1] if pool.samplers[1].load <= pool.samplers[0].load else pool.samplers[0]
        pool.resize(1)
        assert len(leaving.calls) == 2
        pool.retire_leaving()
        assert leaving not in pool.samplers and pool.num_unfinished == 4
        pool.abandon()
        assert pool.num_unfinished == 0 and pool.pump(0.1) == []
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
