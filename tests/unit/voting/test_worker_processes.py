"""The warm server and its owner: who starts whom, who dies with whom, and what a dead server costs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quorum.errors import VotingError
from tests.votes import CATASTROPHE, Pool, is_running, left_after, pool_of
from voting.jobs import JobResult, JobStatus
from voting.workers import Lane, WorkerPool

pytestmark = pytest.mark.wall_clock


def test_starting_twice_is_starting_once_and_stopping_leaves_no_process_behind() -> None:
    with pool_of(num_workers=2, cpu_seconds=30) as made:
        assert made.pids == []
        made.workers.start(timeout=60)
        pids = made.pids
        made.workers.start(timeout=60)
        assert made.pids == pids
        assert len(set(pids)) == 3
        assert all(is_running(pid) for pid in pids)
        started = time.monotonic()
        made.workers.stop(timeout=5)
        made.workers.stop(timeout=5)
        assert time.monotonic() - started < 6
        assert left_after(pids, 1) == []
        assert made.pids == []


def test_a_stopped_pool_starts_again() -> None:
    with pool_of() as made:
        for _ in range(2):
            assert made.values("operator:add", [(1, 1)]) == [2]
            made.workers.stop()


def test_stopping_fails_the_calls_that_are_open() -> None:
    with pool_of(cpu_seconds=30) as made:

        async def stop_meanwhile() -> None:
            hanging = [asyncio.ensure_future(made.workers.run("re:fullmatch", [CATASTROPHE])) for _ in range(2)]
            await asyncio.sleep(0.05)
            made.workers.stop()
            for call in hanging:
                with pytest.raises(VotingError, match="stopped"):
                    await asyncio.wait_for(call, timeout=5)

        made.loop.run_until_complete(stop_meanwhile())
        assert made.pids == []
        assert made.values("operator:add", [(1, 1)]) == [2]


@pytest.mark.parametrize("how", ["exit", "kill", "hang"])
def test_server_and_workers_end_when_their_owner_dies(how: str) -> None:
    script = (
        "import asyncio, sys, time\n"
        "from voting.workers import WorkerPool\n"
        "pool = WorkerPool(num_workers=2, cpu_seconds=60)\n"
        "asyncio.run(pool.run('operator:add', [(1, 1)] * 2))\n"
        "print(*pool.pids, flush=True)\n"
        "if sys.argv[1] == 'hang':\n"
        f"    asyncio.run(pool.run('re:fullmatch', [{CATASTROPHE!r}] * 2))\n"
        "if sys.argv[1] == 'kill':\n"
        "    time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, how], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 5
        if how == "exit":
            assert owner.wait(timeout=10) == 0
        else:
            time.sleep(0.2)
            owner.kill()
            owner.wait(timeout=10)
        assert left_after(pids, 5) == []
    finally:
        owner.kill()
        owner.communicate(timeout=10)


def test_workers_do_not_run_the_users_main_script_again(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import asyncio\n"
        "from voting.workers import WorkerPool\n"
        "print('ran', flush=True)\n"
        "pool = WorkerPool(num_workers=1, cpu_seconds=1)\n"
        "print(asyncio.run(pool.run('operator:add', [(1, 1)]))[0].value)\n"
        "pool.stop()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert run.stdout.split() == ["ran", "2"]


@pytest.mark.parametrize("lane", list(Lane))
def test_a_server_killed_between_two_calls_is_replaced_and_no_job_is_lost(lane: Lane) -> None:
    with pool_of(num_workers=2) as made:
        made.run("operator:add", [(1, 1)] * 4, lane=lane)
        before = made.pids
        os.kill(before[0], signal.SIGKILL)
        assert left_after(before, 3) == []
        assert made.run("operator:add", [(i, 1) for i in range(100)], lane=lane) == [
            JobResult(JobStatus.DONE, i + 1) for i in range(100)
        ]
        assert set(made.pids).isdisjoint(before)
        assert len(made.pids) == (3 if lane is Lane.FAST else 5)


def test_a_server_killed_while_calls_are_open_is_replaced_and_every_call_is_answered() -> None:
    with pool_of(num_workers=2) as made:

        async def kill_meanwhile() -> list[list[JobResult]]:
            calls = [
                asyncio.ensure_future(made.workers.run("operator:add", [(i, n) for i in range(200)], lane=lane))
                for n, lane in enumerate((Lane.FAST, Lane.SLOW, Lane.FAST))
            ]
            sleeping = asyncio.ensure_future(made.workers.run("time:sleep", [(0.3,)]))
            await asyncio.sleep(0.05)
            os.kill(made.pids[0], signal.SIGKILL)
            assert [result.status for result in await sleeping] == [JobStatus.DONE]
            return list(await asyncio.gather(*calls))

        for n, results in enumerate(made.loop.run_until_complete(kill_meanwhile())):
            assert [result.value for result in results] == [i + n for i in range(200)]


def test_a_server_that_dies_again_and_again_is_an_error_and_the_pool_can_be_used_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "murder.py").write_text(
        "import os, signal, time\n\n\ndef parent():\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(60)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pool_of(num_workers=2) as made:
        started = time.monotonic()
        with pytest.raises(VotingError, match=r"worker server \(pid \d+\) is gone"):
            made.run("murder:parent", [()])
        assert time.monotonic() - started < 20
        assert made.pids == []
        assert made.values("operator:add", [(1, 1)] * 30, lane=Lane.FAST) == [2] * 30


def test_a_server_that_cannot_start_says_so() -> None:
    made = WorkerPool(num_workers=1, cpu_seconds=1, preload=("no_such_module",))
    for _ in range(2):
        with pytest.raises(VotingError, match="did not start"):
            made.start(timeout=60)
        assert made.pids == []


def test_a_server_that_cannot_fork_says_so_and_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_more_processes.py").write_text(
        "import os\n\n\ndef fork():\n    raise BlockingIOError('no more processes')\n\n\nos.fork = fork\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = WorkerPool(num_workers=1, cpu_seconds=1, preload=("no_more_processes",))
    for _ in range(2):
        with pytest.raises(VotingError, match="worker server"):
            made.start(timeout=60)
        assert made.pids == []


def test_a_server_that_comes_up_too_late_is_ended() -> None:
    started = time.monotonic()
    made = Pool(preload=("time",))
    with pytest.raises(VotingError, match="did not start within 0.001 s"):
        made.workers.start(timeout=0.001)
    assert time.monotonic() - started < 10
    assert made.pids == []
    made.loop.close()
