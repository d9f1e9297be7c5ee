"""A pool of worker processes that can be killed: runs functions on hostile input under a hard deadline.

A job's deadline is its worker's CPU time, kept by the kernel, so that a busy machine does not change results; a wall
limit far behind it ends jobs that sleep. A worker over its deadline or memory limit is killed and replaced from a
warm server. The pool leaves no process behind: when its owner dies, however it dies, so do they.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quorum.errors import VotingError
from voting.jobs import Batch, JobResult, JobStatus
from voting.worker_server import CONTROL, DONE, FORK, FRAME, REAP, REPLY, frame_of

GIB = 1 << 30
WALL_FACTOR = 10
"""The wall limit of one job is this many times its CPU limit."""
START_SECONDS = 120.0
"""For the server's imports on a busy machine."""
CONTROL_SECONDS = 30.0
"""For one fork or reap, which take milliseconds."""
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from voting.worker_server import main; "
_BOOT += "main(int(sys.argv[2]), json.loads(sys.argv[3]))"


@dataclass(slots=True)
class _Worker:
    pid: int
    connection: socket.socket
    jobs: deque[int] = field(default_factory=deque)
    buffer: bytearray = field(default_factory=bytearray)
    wall_deadline: float = 0.0


class _Server:
    """Handle of the warm process that forks workers (`voting.worker_server`)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._control, remote = socket.socketpair()
        with remote:
            command = [sys.executable, "-W", "ignore", "-c", _BOOT]
            arguments = [json.dumps(sys.path), str(remote.fileno()), json.dumps(settings)]
            self._process = subprocess.Popen(
                command + arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[remote.fileno()],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout: float) -> None:
        try:
            self._reply(timeout)
        except OSError as error:
            self.stop(timeout=1.0)
            raise VotingError(
                f"the voting worker server (pid {self.pid}) did not start within {timeout:g} s "
                f"(exit code {self._process.poll()}): {error}; its own error output says why"
            ) from error

    def fork(self) -> tuple[int, socket.socket]:
        """A new worker: its process id and our end of its socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._control.settimeout(CONTROL_SECONDS)
            socket.send_fds(self._control, [CONTROL.pack(FORK, 0)], [theirs.fileno()])
            return self._reply(CONTROL_SECONDS), ours

    def reap(self, pid: int) -> int:
        """Exit code of a worker that is dead or was just killed; negative for a signal."""
        self._control.settimeout(CONTROL_SECONDS)
        self._control.sendall(CONTROL.pack(REAP, pid))
        return self._reply(CONTROL_SECONDS)

    def stop(self, timeout: float) -> None:
        """End the server and with it every worker."""
        self._control.close()
        try:
            self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=CONTROL_SECONDS)

    def _reply(self, timeout: float) -> int:
        self._control.settimeout(timeout)
        answer = self._control.recv(REPLY.size)
        if len(answer) != REPLY.size:
            raise ConnectionResetError("the process is gone")
        return int(REPLY.unpack(answer)[0])


class WorkerPool:
    """Killable worker processes. One caller at a time; not thread-safe.

    Example:
        >>> with WorkerPool(num_workers=1, cpu_seconds=1.0) as pool:
        ...     [result.value for result in pool.run("operator:add", [(1, 2), (3, 4)])]
        [3, 7]
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
            num_workers: processes, >= 1.
            cpu_seconds: CPU time of one job.
            memory_bytes: address space of one worker (enforced on Linux).
            preload: "module" to import, or "module:function" to call, in the server before workers are forked.
        """
        if num_workers < 1 or cpu_seconds <= 0:
            raise ValueError(f"num_workers must be >= 1 and cpu_seconds > 0, got {num_workers} and {cpu_seconds}")
        self._num_workers, self._wall_seconds = num_workers, WALL_FACTOR * cpu_seconds
        self._settings: dict[str, Any] = {
            "cpu_seconds": cpu_seconds,
            "memory_bytes": memory_bytes,
            "preload": list(preload),
        }
        self._server: _Server | None = None
        self._workers: list[_Worker] = []
        self.num_replaced = 0
        """Workers killed at a deadline, spent, or lost in a crash, since the pool was made."""

    @property
    def pids(self) -> list[int]:
        """Process ids of server and workers; empty before the start."""
        return [self._server.pid, *(worker.pid for worker in self._workers)] if self._server else []

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start server and workers and wait until they are ready; does nothing when they run.

        Raises:
            VotingError: the server did not come up within `timeout` seconds.
        """
        if self._server is not None:
            return
        server = _Server({**self._settings, "parent": os.getpid()})
        server.wait_ready(timeout)
        self._server = server
        try:
            self._workers = [_Worker(*server.fork()) for _ in range(self._num_workers)]
        except OSError as error:
            raise self._lost(error) from error

    def run(self, function: str, arguments: Iterable[Sequence[Any]]) -> list[JobResult]:
        """Run `function` on every tuple of arguments, each under its own deadline.

        A job whose worker dies for no reason of the pool's is tried once more.

        Args:
            function: "module:function", importable in the worker.
            arguments: one sequence of JSON values per job.

        Returns:
            One result per job, in order.

        Raises:
            VotingError: workers can no longer be started.
        """
        self.start()
        batch = Batch(function, [list(job) for job in arguments])
        while batch.num_open:
            for worker in list(self._workers):
                if not worker.jobs and batch.queue:
                    self._send(worker, batch)
            self._receive(batch)
        return [result for result in batch.results if result is not None]

    def stop(self, timeout: float = 5.0) -> None:
        """End every process of the pool within `timeout` seconds; it can be started again."""
        for worker in self._workers:
            worker.connection.close()
        self._workers = []
        if self._server is not None:
            self._server.stop(timeout)
            self._server = None

    def __enter__(self) -> WorkerPool:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _send(self, worker: _Worker, batch: Batch) -> None:
        jobs = batch.take(self._num_workers)
        worker.jobs.extend(jobs)
        worker.wall_deadline = time.monotonic() + self._wall_seconds
        worker.connection.settimeout(self._wall_seconds)
        try:
            worker.connection.sendall(frame_of([[batch.function, batch.arguments[job]] for job in jobs]))
        except OSError:  # it was killed while idle: no job did that
            batch.put_back(worker.jobs)
            worker.jobs.clear()
            self._replace(worker)

    def _receive(self, batch: Batch) -> None:
        """Wait for the next results, or for the first wall deadline."""
        busy = [worker for worker in self._workers if worker.jobs]
        if not busy:
            return
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.connection, selectors.EVENT_READ, worker)
            first = min(worker.wall_deadline for worker in busy)
            ready = {key.data.pid for key, _ in selector.select(max(0.0, first - time.monotonic()))}
        for worker in busy:
            if worker.pid in ready:
                self._read(worker, batch)
            elif time.monotonic() >= worker.wall_deadline:
                self._bury(worker, batch, timed_out=True)

    def _read(self, worker: _Worker, batch: Batch) -> None:
        try:
            data = worker.connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._bury(worker, batch, timed_out=False)
            return
        worker.buffer += data
        while len(worker.buffer) >= FRAME.size:
            end = FRAME.size + FRAME.unpack_from(worker.buffer)[0]
            if len(worker.buffer) < end:
                break
            status, value, is_spent = json.loads(worker.buffer[FRAME.size : end])
            del worker.buffer[:end]
            worker.wall_deadline = time.monotonic() + self._wall_seconds
            result = JobResult(JobStatus.DONE, value) if status == DONE else JobResult(JobStatus.ERROR, value or status)
            batch.finish(worker.jobs.popleft(), result)
            if is_spent:
                batch.put_back(worker.jobs)
                worker.jobs.clear()
                self._replace(worker)
                return

    def _bury(self, worker: _Worker, batch: Batch, *, timed_out: bool) -> None:
        """A worker died: settle the job it was on, return the others to the queue, fork its successor."""
        jobs, worker.jobs = worker.jobs, deque()
        exit_code = self._replace(worker)
        job = jobs.popleft()
        batch.put_back(jobs)
        if timed_out or exit_code == -signal.SIGPROF:
            batch.finish(job, JobResult(JobStatus.TIMED_OUT))
        else:
            batch.retry_or_fail(job, f"the worker ended with code {exit_code}")

    def _replace(self, worker: _Worker) -> int:
        """Kill a worker if it still lives and fork another in its place; returns the first one's exit code."""
        assert self._server is not None
        self.num_replaced += 1
        position = self._workers.index(worker)
        worker.connection.close()
        try:
            os.kill(worker.pid, signal.SIGKILL)  # the server keeps its process id until it is reaped
            exit_code = self._server.reap(worker.pid)
            self._workers[position] = _Worker(*self._server.fork())
        except OSError as error:
            raise self._lost(error) from error
        return exit_code

    def _lost(self, error: OSError) -> VotingError:
        assert self._server is not None
        pid = self._server.pid
        self.stop()
        return VotingError(
            f"the voting worker server (pid {pid}) is gone: {error}; it was killed from outside, likely for memory"
        )
