"""A pool of worker processes that can be killed: runs functions on hostile input under a hard deadline.

A job's deadline is its worker's CPU time, kept by the kernel, so that a busy machine does not change results. Jobs
start in the fast lane, whose workers give each a few milliseconds; what needs more is run again in the slow lane, by
workers of low priority, so that jobs that hang delay only those who asked for them. A worker over its limits is killed
and replaced from a warm server. No process outlives the pool's owner, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any

from quorum.errors import VotingError
from voting.jobs import Budget, Call, JobResult, JobStatus
from voting.worker_processes import Server, Worker
from voting.worker_server import DONE

GIB = 1 << 30
QUICK_SECONDS = 0.04
"""CPU time of a job in the fast lane: twice what the dearest ordinary parse takes in a new worker."""
QUICK_WALL_SECONDS = 2.0
"""Without a result for so long a fast worker's job moves to the slow lane: it sleeps, or the machine is very busy."""
WALL_FACTOR = 10
"""A slow worker that uses no CPU time for this many times a job's CPU limit sleeps, and is killed."""
START_SECONDS = 120.0
"""For the server's imports on a busy machine."""
_TICK_SECONDS = 0.1
_MAX_RESTARTS_IN_A_ROW = 2


class Lane(IntEnum):
    """Which workers a call goes to; the value is their niceness."""

    FAST = 0
    SLOW = 10


class WorkerPool:
    """Killable worker processes, used from one event loop at a time.

    Example:
        >>> pool = WorkerPool(num_workers=1, cpu_seconds=1.0)
        >>> [result.value for result in asyncio.run(pool.run("operator:add", [(1, 2), (3, 4)]))]
        [3, 7]
        >>> pool.stop()
    """

    def __init__(
        self,
        *,
        num_workers: int,
        cpu_seconds: float,
        memory_bytes: int = GIB,
        preload: Sequence[str] = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            num_workers: processes in each lane, >= 1; the slow lane's are started when first needed.
            cpu_seconds: CPU time of one job.
            memory_bytes: address space of one worker (enforced on Linux).
            preload: "module" to import, or "module:function" to call, in the server before workers are forked.
        """
        if num_workers < 1 or cpu_seconds <= 0:
            raise ValueError(f"num_workers must be >= 1 and cpu_seconds > 0, got {num_workers} and {cpu_seconds}")
        self._num_workers, self._cpu_seconds = num_workers, cpu_seconds
        self._settings: dict[str, Any] = {"memory_bytes": memory_bytes, "preload": list(preload)}
        self._server: Server | None = None
        self._workers: list[Worker] = []
        self._num_forking = dict.fromkeys(Lane, 0)
        self._queues: dict[Lane, deque[Call]] = {lane: deque() for lane in Lane}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._restarts = 0
        self._calls: dict[Call, Lane] = {}
        """Every call somebody waits for."""
        self.num_replaced = 0
        """Workers killed at a deadline, spent, or lost in a crash, since the pool was made."""
        self.replace_seconds: list[float] = []
        """From each of the last 1,000 of them until its successor was there."""

    @property
    def pids(self) -> list[int]:
        """Process ids of server and workers; empty before the start."""
        return [self._server.pid, *(worker.pid for worker in self._workers)] if self._server else []

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start server and fast workers and wait until they are ready; does nothing when they run.

        Raises:
            VotingError: the server did not come up within `timeout` seconds.
        """
        if self._server is not None:
            return
        server = Server({**self._settings, "parent": os.getpid()})
        server.wait(timeout)
        self._server = server
        try:
            for _ in range(self._num_workers):
                self._fork(Lane.FAST)
            server.wait(timeout)
        except (OSError, VotingError) as error:
            self._end(timeout=1.0)
            if isinstance(error, VotingError):
                raise
            raise VotingError(f"the voting worker server (pid {server.pid}) is gone: {error}") from error

    async def run(
        self,
        function: str,
        arguments: Iterable[Sequence[Any]],
        *,
        lane: Lane = Lane.SLOW,
        budget: Budget | None = None,
    ) -> list[JobResult]:
        """Run `function` on every tuple of arguments, each under its own CPU deadline.

        Args:
            function: "module:function", importable in the worker.
            arguments: one sequence of JSON values per job.
            lane: SLOW runs a job to its end or its deadline; FAST gives up with status SLOW after QUICK_SECONDS.
            budget: wall time that is left to whoever asks, spent from when the first job is handed to a worker: waiting
                behind others costs nothing. Jobs not settled when it is spent are EXPIRED. None sets no limit.

        Returns:
            One result per job, in order.

        Raises:
            VotingError: workers can no longer be started.
        """
        jobs = [list(job) for job in arguments]
        if not jobs:
            return []
        self.start()
        self._attach()
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settled(error: Exception | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)

        call = Call(function, jobs, settled, float("inf") if budget is None else budget.seconds)
        self._calls[call] = lane
        self._queues[lane].append(call)
        self._dispatch()
        try:
            await done
        finally:
            call.expire()
            self._drop(call)
            del self._calls[call]
            if budget is not None:
                budget.seconds -= call.seconds_worked
        return [result for result in call.results if result is not None]

    def stop(self, timeout: float = 5.0) -> None:
        """End every process of the pool within `timeout` seconds; calls that are open fail. It can be started again."""
        loop = self._loop
        self._end(timeout)
        if loop is not None and not loop.is_closed():
            for call in list(self._calls):
                call.fail(VotingError("the voting workers were stopped while a call was open"))

    def _end(self, timeout: float) -> None:
        self._detach()
        for worker in self._workers:
            worker.connection.close()
        self._workers, self._num_forking = [], dict.fromkeys(Lane, 0)
        if self._server is not None:
            self._server.stop(timeout)
            self._server = None

    # ---- event loop

    def _attach(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        self._detach()
        self._loop = loop
        assert self._server is not None
        loop.add_reader(self._server.control, self._read_server)
        for worker in self._workers:
            loop.add_reader(worker.connection, self._read_worker, worker)
        if self._calls:  # the server was replaced in the middle of them
            self._ticker = loop.call_later(_TICK_SECONDS, self._tick)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            if self._ticker is not None:
                self._ticker.cancel()
            for connection in [worker.connection for worker in self._workers] + (
                [self._server.control] if self._server else []
            ):
                if connection.fileno() >= 0:
                    self._loop.remove_reader(connection)
        self._loop = self._ticker = None

    def _tick(self) -> None:
        """Look at what no event tells: deadlines of callers, and workers that sleep."""
        assert self._loop is not None
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick) if self._calls else None
        now = time.monotonic()
        for call in list(self._calls):
            if call.seconds_worked >= call.seconds:
                call.expire()
                self._drop(call)
        for worker in list(self._workers):
            if worker.jobs and now >= worker.wall_deadline:
                if worker.is_slow and worker.used_cpu():
                    self._renew(worker)
                else:
                    self._bury(worker, timed_out=True)
        self._dispatch()

    # ---- lanes

    def _dispatch(self) -> None:
        """Hand waiting jobs to idle workers, calls in turn; fork slow workers as they are needed.

        Looks anew at every step: each may find the server gone, and then every worker is another.
        """
        for lane in Lane:
            while (call := self._next_call(lane)) and (worker := self._idle_worker(lane)):
                self._queues[lane].rotate(-1)
                self._send(worker, call, lane)
        while self._num_forking[Lane.SLOW] < sum(len(call.queue) for call in self._queues[Lane.SLOW]):
            if sum(worker.is_slow for worker in self._workers) + self._num_forking[Lane.SLOW] >= self._num_workers:
                break
            self._guarded(lambda: self._fork(Lane.SLOW))

    def _next_call(self, lane: Lane) -> Call | None:
        """The call whose turn it is, first of its queue; those that have cost a worker wait behind all others."""
        queue = self._queues[lane]
        for _ in range(len(queue)):
            if not queue[0].queue:
                queue.popleft()
            elif queue[0].is_suspect:
                queue.rotate(-1)
            else:
                break
        return queue[0] if queue else None

    def _idle_worker(self, lane: Lane) -> Worker | None:
        return next((w for w in self._workers if w.is_slow == (lane is Lane.SLOW) and not w.jobs), None)

    def _send(self, worker: Worker, call: Call, lane: Lane) -> None:
        if lane is Lane.SLOW:
            jobs, limit = [call.queue.popleft()], self._cpu_seconds
        else:
            jobs, limit = call.take(self._num_workers), min(QUICK_SECONDS, self._cpu_seconds)
        call.begin()
        try:
            worker.send(call, jobs, limit)
        except OSError:  # it was killed while idle: no job did that
            worker.jobs.clear()
            call.put_back(jobs)
            self._replace(worker)
            return
        worker.used_cpu()
        self._renew(worker)

    def _renew(self, worker: Worker) -> None:
        seconds = WALL_FACTOR * self._cpu_seconds if worker.is_slow else QUICK_WALL_SECONDS
        worker.wall_deadline = time.monotonic() + seconds

    def _drop(self, call: Call) -> None:
        """Nobody waits for this call any more: a slow worker that is on it is free for others."""
        for queue in self._queues.values():
            if call in queue:
                queue.remove(call)
        for worker in list(self._workers):
            if worker.call is call and worker.jobs and worker.is_slow:
                worker.jobs.clear()
                self._replace(worker)

    # ---- workers

    def _read_worker(self, worker: Worker) -> None:
        results = worker.read()
        if results is None:
            self._bury(worker, timed_out=False)
            return
        call = worker.call
        assert call is not None
        for status, value, is_spent in results:
            job = worker.jobs.popleft()
            done = JobResult(JobStatus.DONE, value) if status == DONE else JobResult(JobStatus.ERROR, value or status)
            call.settle(job, done)
            self._restarts = 0
            if is_spent:
                self._return_jobs(worker)
                self._replace(worker)
                break
        else:
            self._renew(worker)
        if not worker.jobs:
            self._dispatch()

    def _bury(self, worker: Worker, *, timed_out: bool) -> None:
        """A worker died, or is to: settle the job it was on, return the others to the queue, fork its successor."""
        if worker not in self._workers:  # it went with its server
            return
        call = worker.call
        if call is None or not worker.jobs:  # it was killed while idle
            self._replace(worker)
            return
        job = worker.jobs.popleft()
        call.is_suspect = True
        self._return_jobs(worker)
        over = JobResult(JobStatus.TIMED_OUT if worker.is_slow else JobStatus.SLOW)
        if timed_out:
            call.settle(job, over)
            self._replace(worker)
            return

        def settle(exit_code: int) -> None:
            if exit_code == -signal.SIGPROF:
                call.settle(job, over)
            else:
                call.retry_or_fail(job, f"the worker ended with code {exit_code}")
                self._requeue(call, worker.is_slow)

        self._replace(worker, settle)

    def _return_jobs(self, worker: Worker) -> None:
        assert worker.call is not None
        worker.call.put_back(worker.jobs)
        worker.jobs.clear()
        self._requeue(worker.call, worker.is_slow)

    def _requeue(self, call: Call, is_slow: bool) -> None:
        queue = self._queues[Lane.SLOW if is_slow else Lane.FAST]
        if call.queue and call not in queue:
            queue.append(call)

    def _replace(self, worker: Worker, on_reaped: Callable[[int], None] = lambda code: None) -> None:
        """Kill a worker if it still lives and fork another in its place; `on_reaped` gets its exit code."""
        if worker not in self._workers:  # it went with its server
            return
        self.num_replaced += 1
        self._workers.remove(worker)
        if self._loop is not None:
            self._loop.remove_reader(worker.connection)

        def replace() -> None:
            assert self._server is not None
            worker.kill()
            self._server.reap(worker.pid, on_reaped)
            self._fork(Lane.SLOW if worker.is_slow else Lane.FAST)

        self._guarded(replace)

    def _fork(self, lane: Lane) -> None:
        assert self._server is not None
        asked_at = time.monotonic()
        self._num_forking[lane] += 1

        def forked(pid: int, connection: socket.socket) -> None:
            self._num_forking[lane] -= 1
            worker = Worker(pid, connection, is_slow=lane is Lane.SLOW)
            self._workers.append(worker)
            if self._loop is not None:
                self.replace_seconds[:] = [*self.replace_seconds[-999:], time.monotonic() - asked_at]
                self._loop.add_reader(connection, self._read_worker, worker)
                self._dispatch()

        self._server.fork(lane, forked)

    # ---- server

    def _read_server(self) -> None:
        assert self._server is not None
        self._guarded(self._server.read_answers)

    def _guarded(self, exchange: Callable[[], None]) -> None:
        """Do something with the server; when it is gone, start another and go on with every open call."""
        try:
            exchange()
        except OSError as error:
            self._restart(error)

    def _restart(self, error: OSError) -> None:
        assert self._server is not None
        pid = self._server.pid
        self._end(timeout=1.0)
        self._restarts += 1
        try:
            if self._restarts > _MAX_RESTARTS_IN_A_ROW:
                raise VotingError(f"so are {_MAX_RESTARTS_IN_A_ROW} started in its place")
            self.start()
        except VotingError as second:
            for call in list(self._calls):
                call.fail(
                    VotingError(f"the voting worker server (pid {pid}) is gone: {error}; killed for memory? {second}")
                )
            return
        for call, lane in self._calls.items():
            call.begin_again()
            self._requeue(call, lane is Lane.SLOW)
        self._attach()
        self._dispatch()
