"""Real processes, really killed: deadlines, crashes, memory, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quorum.errors import VotingError
from voting.jobs import JobStatus
from voting.workers import WorkerPool

_CATASTROPHE = ("(a+)+$", "a" * 40 + "b")
"""Arguments with which re.match burns CPU inside C for centuries."""


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(num_workers=2, cpu_seconds=0.3, memory_bytes=256 << 20) as made:
        yield made


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if _is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def test_results_come_in_the_order_of_the_jobs(pool: WorkerPool) -> None:
    results = pool.run("operator:add", [(i, 1) for i in range(100)])
    assert [result.value for result in results] == list(range(1, 101))
    assert {result.status for result in results} == {JobStatus.DONE}
    assert pool.run("operator:add", []) == []


def test_falsy_values_come_back_as_they_are(pool: WorkerPool) -> None:
    assert [result.value for result in pool.run("operator:eq", [(1, 2), (1, 1)])] == [False, True]


def test_a_hanging_job_is_killed_at_its_cpu_deadline_and_the_others_finish(pool: WorkerPool) -> None:
    before = pool.pids
    started = time.monotonic()
    results = pool.run("re:fullmatch", [("(a+)+$", "b")] * 3 + [_CATASTROPHE] + [("(a+)+$", "b")] * 20)
    assert [result.status for result in results].count(JobStatus.TIMED_OUT) == 1
    assert results[3].status is JobStatus.TIMED_OUT
    assert time.monotonic() - started < 5
    assert pool.pids[0] == before[0]
    assert set(pool.pids) != set(before)
    assert all(_is_running(pid) for pid in pool.pids)
    assert not _wait_until_gone([pid for pid in before if pid not in pool.pids], 2)


def test_a_sleeping_job_is_ended_by_the_wall_limit() -> None:
    with WorkerPool(num_workers=1, cpu_seconds=0.05) as made:
        started = time.monotonic()
        results = made.run("time:sleep", [(0,), (60,), (0,)])
        assert [result.status for result in results] == [JobStatus.DONE, JobStatus.TIMED_OUT, JobStatus.DONE]
        assert 0.4 < time.monotonic() - started < 5


def test_sleeping_costs_no_cpu_time_so_the_deadline_waits(pool: WorkerPool) -> None:
    assert pool.run("time:sleep", [(0.6,)])[0].status is JobStatus.DONE


def test_a_job_that_exits_hard_is_an_error_and_the_others_finish(pool: WorkerPool) -> None:
    results = pool.run("os:_exit", [(7,)])
    assert results[0].status is JobStatus.ERROR
    assert "code 7" in results[0].value
    assert pool.run("os:_exit", [(0,)])[0].status is JobStatus.ERROR
    assert pool.run("operator:add", [(1, 2)])[0].value == 3


def test_one_bad_job_in_a_batch_harms_only_itself(pool: WorkerPool) -> None:
    results = pool.run("os:kill", [(0, 0)] * 3 + [(0, "no signal")] + [(0, 0)] * 20)
    assert [result.status for result in results].count(JobStatus.ERROR) == 1
    assert results[3].value == "TypeError"


def test_a_job_over_its_memory_limit_is_an_error_and_its_worker_is_replaced(pool: WorkerPool) -> None:
    before = set(pool.pids)
    results = pool.run("operator:mul", [("x", 1 << 32), ("x", 2), ("x", 3), ("x", 4), ("x", 5)])
    assert results[0].status is JobStatus.ERROR
    assert [result.value for result in results[1:]] == ["xx", "xxx", "xxxx", "xxxxx"]
    assert set(pool.pids) != before


def test_a_worker_killed_between_two_calls_costs_nothing(pool: WorkerPool) -> None:
    os.kill(pool.pids[1], signal.SIGKILL)
    assert [result.value for result in pool.run("operator:add", [(1, 2)] * 4)] == [3] * 4


def test_stopping_leaves_no_process_behind() -> None:
    made = WorkerPool(num_workers=2, cpu_seconds=30)
    made.start(timeout=60)
    pids = made.pids
    started = time.monotonic()
    made.stop(timeout=5)
    assert time.monotonic() - started < 6
    assert _wait_until_gone(pids, 1) == []
    assert made.pids == []


def test_a_stopped_pool_starts_again() -> None:
    made = WorkerPool(num_workers=1, cpu_seconds=1)
    for _ in range(2):
        assert made.run("operator:add", [(1, 1)])[0].value == 2
        made.stop(timeout=5)


@pytest.mark.parametrize("how", ["exit", "kill", "hang"])
def test_server_and_workers_end_when_their_owner_dies(how: str) -> None:
    script = (
        "import os, sys, threading, time\n"
        "from voting.workers import WorkerPool\n"
        "pool = WorkerPool(num_workers=2, cpu_seconds=60)\n"
        "pool.start(timeout=60)\n"
        "print(*pool.pids, flush=True)\n"
        "if sys.argv[1] == 'hang':\n"
        f"    pool.run('re:fullmatch', [{_CATASTROPHE!r}] * 2)\n"
        "if sys.argv[1] == 'kill':\n"
        "    time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, how], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 3
        if how == "exit":
            assert owner.wait(timeout=10) == 0
        else:
            time.sleep(0.3)
            owner.kill()
            owner.wait(timeout=10)
        assert _wait_until_gone(pids, 3) == []
    finally:
        owner.kill()
        owner.communicate(timeout=10)


def test_workers_do_not_run_the_users_main_script_again(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "from voting.workers import WorkerPool\n"
        "print('ran', flush=True)\n"
        "with WorkerPool(num_workers=1, cpu_seconds=1) as pool:\n"
        "    print(pool.run('operator:add', [(1, 1)])[0].value)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["ran", "2"]


def test_a_server_that_was_killed_is_an_error_and_the_next_call_starts_anew() -> None:
    made = WorkerPool(num_workers=1, cpu_seconds=1)
    try:
        made.start(timeout=60)
        pids = made.pids
        os.kill(pids[0], signal.SIGKILL)
        assert _wait_until_gone(pids[1:], 3) == []
        with pytest.raises(VotingError, match="worker server"):
            made.run("operator:add", [(1, 1)])
        assert made.run("operator:add", [(1, 1)])[0].value == 2
    finally:
        made.stop(timeout=5)


def test_a_server_that_cannot_start_says_so() -> None:
    made = WorkerPool(num_workers=1, cpu_seconds=1, preload=("no_such_module",))
    with pytest.raises(VotingError, match="did not start"):
        made.start(timeout=60)
    assert made.pids == []


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="num_workers"):
        WorkerPool(num_workers=0, cpu_seconds=1)
