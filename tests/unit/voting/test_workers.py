"""Real processes, really killed: lanes, deadlines, crashes, memory, callers that gave up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.votes import CATASTROPHE, Pool, is_running, left_after, pool_of
from voting.jobs import Budget, JobResult, JobStatus
from voting.workers import QUICK_WALL_SECONDS, Lane, WorkerPool

pytestmark = pytest.mark.wall_clock

DONE, SLOW, TIMED_OUT, ERROR, EXPIRED = (
    JobStatus.DONE,
    JobStatus.SLOW,
    JobStatus.TIMED_OUT,
    JobStatus.ERROR,
    JobStatus.EXPIRED,
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with pool_of(num_workers=2, cpu_seconds=0.2, memory_bytes=256 << 20) as made:
        yield made


@pytest.mark.parametrize("lane", list(Lane))
def test_results_come_in_the_order_of_the_jobs(pool: Pool, lane: Lane) -> None:
    results = pool.run("operator:add", [(i, 1) for i in range(100)], lane=lane)
    assert results == [JobResult(DONE, i + 1) for i in range(100)]
    assert pool.run("operator:add", [], lane=lane) == []


def test_falsy_values_come_back_as_they_are(pool: Pool) -> None:
    assert pool.values("operator:eq", [(1, 2), (1, 1)]) == [False, True]
    assert pool.values("operator:add", [("", ""), (0, 0)]) == ["", 0]


def test_slow_workers_are_started_when_first_needed_and_are_nice_to_the_fast_ones() -> None:
    with pool_of(num_workers=1) as made:
        made.run("operator:add", [(1, 1)], lane=Lane.FAST)
        assert len(made.pids) == 2
        made.run("operator:add", [(1, 1)], lane=Lane.SLOW)
        _, fast, slow = made.pids
        assert os.getpriority(os.PRIO_PROCESS, slow) - os.getpriority(os.PRIO_PROCESS, fast) == 10


def test_a_hanging_job_is_killed_at_its_cpu_deadline_and_the_others_finish(pool: Pool) -> None:
    pool.run("operator:add", [(1, 1)] * 2)
    before = pool.pids
    started = time.monotonic()
    statuses = pool.statuses("re:fullmatch", [("(a+)+$", "b")] * 3 + [CATASTROPHE] + [("(a+)+$", "b")] * 20)
    assert statuses == [DONE] * 3 + [TIMED_OUT] + [DONE] * 20
    assert 0.2 <= time.monotonic() - started < 5
    assert pool.pids[0] == before[0]
    assert len(set(before) - set(pool.pids)) == 1
    assert all(is_running(pid) for pid in pool.pids)
    assert left_after(set(before) - set(pool.pids), 2) == []


def test_the_fast_lane_gives_up_early_and_says_that_the_job_is_slow(pool: Pool) -> None:
    before = pool.workers.num_replaced
    jobs = [("(a+)+$", "b")] * 30
    jobs[7] = jobs[19] = CATASTROPHE
    statuses = pool.statuses("re:fullmatch", jobs, lane=Lane.FAST)
    assert [i for i, status in enumerate(statuses) if status is SLOW] == [7, 19]
    assert set(statuses) == {DONE, SLOW}
    assert pool.workers.num_replaced - before == 2


def test_hanging_jobs_in_the_slow_lane_do_not_delay_the_fast_lane(pool: Pool) -> None:
    async def both() -> tuple[list[str], list[JobResult]]:
        order: list[str] = []

        async def run(lane: Lane, jobs: list[tuple[str, str]]) -> list[JobResult]:
            results = await pool.workers.run("re:fullmatch", jobs, lane=lane)
            order.append(lane.name)
            return results

        hanging = asyncio.ensure_future(run(Lane.SLOW, [CATASTROPHE] * 3))
        await asyncio.sleep(0.05)
        await run(Lane.FAST, [("(a+)+$", "b")] * 50)
        return order, await hanging

    order, hung = pool.loop.run_until_complete(both())
    assert order[0] == "FAST"
    assert [result.status for result in hung] == [TIMED_OUT] * 3


def test_calls_take_turns_so_that_a_short_one_is_over_before_a_long_one_that_came_first() -> None:
    with pool_of() as made:

        async def order() -> list[str]:
            finished: list[str] = []

            async def run(name: str, num_jobs: int) -> None:
                await made.workers.run("time:sleep", [(0.01,)] * num_jobs, lane=Lane.FAST)
                finished.append(name)

            await asyncio.gather(run("long", 50), run("short", 3))
            return finished

        assert made.loop.run_until_complete(order()) == ["short", "long"]


def test_jobs_that_sleep_delay_another_call_by_one_of_them() -> None:
    with pool_of() as made:

        async def seconds_of_another_call() -> float:
            await made.workers.run("time:sleep", [(0,)], lane=Lane.FAST)
            sleeping = asyncio.ensure_future(made.workers.run("time:sleep", [(60,)] * 8, lane=Lane.FAST))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            assert [r.status for r in await made.workers.run("time:sleep", [(0,)] * 3, lane=Lane.FAST)] == [DONE] * 3
            sleeping.cancel()
            await asyncio.wait([sleeping], timeout=5)
            return time.monotonic() - started

        assert made.loop.run_until_complete(seconds_of_another_call()) < 1.9 * QUICK_WALL_SECONDS


def test_a_sleeping_job_is_ended_by_the_wall_limit() -> None:
    with pool_of(cpu_seconds=0.05) as made:
        started = time.monotonic()
        assert made.statuses("time:sleep", [(0,), (60,), (0,)]) == [DONE, TIMED_OUT, DONE]
        assert 0.4 < time.monotonic() - started < 5


def test_sleeping_costs_no_cpu_time_so_the_deadline_waits(pool: Pool) -> None:
    assert pool.statuses("time:sleep", [(0.4,)]) == [DONE]


def test_a_job_that_exits_hard_is_tried_twice_then_an_error_and_the_others_finish(pool: Pool) -> None:
    before = pool.workers.num_replaced
    [result] = pool.run("os:_exit", [(7,)])
    assert (result.status, "code 7" in result.value) == (ERROR, True)
    assert pool.workers.num_replaced - before == 2
    assert pool.statuses("os:_exit", [(0,)]) == [ERROR]
    assert pool.statuses("sys:exit", [(0,)]) == [ERROR]
    assert pool.values("operator:add", [(1, 2)]) == [3]


def test_a_crash_in_the_fast_lane_harms_no_job_beside_it(pool: Pool) -> None:
    results = pool.run("signal:raise_signal", [(0,)] * 11 + [(signal.SIGSEGV,)] + [(0,)] * 28, lane=Lane.FAST)
    assert [i for i, result in enumerate(results) if result.status is not DONE] == [11]
    assert results[11].status is ERROR
    assert f"code -{signal.SIGSEGV.value}" in results[11].value


def test_one_bad_job_in_a_batch_harms_only_itself(pool: Pool) -> None:
    jobs = [(0, 0)] * 3 + [(0, "no signal")] + [(0, 0)] * 20
    results = pool.run("os:kill", jobs, lane=Lane.FAST)
    assert [result.status for result in results].count(ERROR) == 1
    assert results[3] == JobResult(ERROR, "TypeError")


def test_a_result_that_is_not_json_is_an_error(pool: Pool) -> None:
    assert pool.run("re:compile", [("a",)]) == [JobResult(ERROR, "TypeError")]


def test_a_job_over_its_memory_limit_is_an_error_and_its_worker_is_replaced(pool: Pool) -> None:
    before = set(pool.pids)
    jobs = [("x", 1 << 32), ("x", 2), ("x", 3), ("x", 4), ("x", 5)]
    results = pool.run("operator:mul", jobs, lane=Lane.FAST)
    assert results[0].status is ERROR
    assert [result.value for result in results[1:]] == ["xx", "xxx", "xxxx", "xxxxx"]
    assert set(pool.pids) != before


def test_a_worker_that_has_used_much_of_its_memory_is_replaced_though_its_job_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory_user.py").write_text("def use(number):\n    return len(b'x' * number)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pool_of(memory_bytes=256 << 20) as made:
        assert made.values("memory_user:use", [(1 << 20,)]) == [1 << 20]
        before = made.pids
        assert made.values("memory_user:use", [(150 << 20,)]) == [150 << 20]
        assert made.values("memory_user:use", [(1,)]) == [1]
        assert len(set(before) - set(made.pids)) == made.workers.num_replaced == 1


def test_workers_keep_a_lower_memory_limit_that_the_pool_itself_is_under() -> None:
    script = (
        "import asyncio, resource\n"
        "from voting.workers import WorkerPool\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "pool = WorkerPool(num_workers=1, cpu_seconds=1, memory_bytes=2 << 30)\n"
        "print([result.value for result in asyncio.run(pool.run('operator:add', [(1, 2)]))])\n"
        "pool.stop()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[3]"


@pytest.mark.parametrize("lane", list(Lane))
def test_workers_killed_between_two_calls_cost_nothing(pool: Pool, lane: Lane) -> None:
    pool.run("operator:add", [(1, 2)] * 4, lane=lane)
    workers = pool.pids[1:]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert left_after(workers, 3) == []
    assert pool.values("operator:add", [(1, 2)] * 40, lane=lane) == [3] * 40


def test_what_is_open_at_the_callers_deadline_is_expired_and_its_slow_worker_is_free_at_once() -> None:
    with pool_of(cpu_seconds=20) as made:
        made.run("operator:add", [(1, 1)])
        slow = made.pids[-1]
        started = time.monotonic()
        assert made.statuses("re:fullmatch", [CATASTROPHE] * 3, budget=Budget(0.2)) == [EXPIRED] * 3
        assert made.values("operator:add", [(1, 1)], budget=Budget(5.0)) == [2]
        assert time.monotonic() - started < 3
        assert left_after([slow], 1) == []


def test_what_was_settled_before_the_deadline_stays(pool: Pool) -> None:
    jobs = [(0,), (60,)]
    assert pool.statuses("time:sleep", jobs, budget=Budget(0.4)) == [DONE, EXPIRED]


def test_a_caller_that_is_cancelled_leaves_its_workers_to_others() -> None:
    with pool_of(cpu_seconds=20) as made:

        async def give_up() -> list[JobResult]:
            hanging = asyncio.ensure_future(made.workers.run("re:fullmatch", [CATASTROPHE]))
            await asyncio.sleep(0.1)
            hanging.cancel()
            return await made.workers.run("operator:add", [(1, 2)], budget=Budget(5.0))

        assert made.loop.run_until_complete(give_up()) == [JobResult(DONE, 3)]


def test_one_pool_serves_one_event_loop_after_the_other() -> None:
    with pool_of(num_workers=2) as made:
        pids = set()
        for _ in range(3):
            assert asyncio.run(made.workers.run("operator:add", [(1, 1)], lane=Lane.FAST))[0].value == 2
            pids |= set(made.pids)
        assert len(pids) == 3


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="num_workers"):
        Pool(num_workers=0)
    with pytest.raises(ValueError, match="cpu_seconds"):
        Pool(cpu_seconds=0)


def test_deadlines_and_sleepers_are_still_looked_after_when_the_server_was_replaced_in_the_middle() -> None:
    async def main(workers: WorkerPool) -> tuple[list[JobResult], list[JobResult]]:
        sleeping = asyncio.ensure_future(workers.run("time:sleep", [(60,)], lane=Lane.FAST))
        bounded = asyncio.ensure_future(workers.run("time:sleep", [(60,)], budget=Budget(1.0)))
        await asyncio.sleep(0.3)
        os.kill(workers.pids[0], signal.SIGKILL)
        return await asyncio.wait_for(sleeping, 20), await asyncio.wait_for(bounded, 20)

    workers = WorkerPool(num_workers=1, cpu_seconds=30)
    try:
        sleeping, bounded = asyncio.run(main(workers))
        assert [result.status for result in sleeping] == [SLOW]
        assert [result.status for result in bounded] == [EXPIRED]
    finally:
        workers.stop()
