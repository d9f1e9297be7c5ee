"""The pool's ends of its processes: the warm server that forks workers, and one worker with the jobs it was sent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quorum.errors import VotingError
from voting.jobs import Call
from voting.worker_server import CONTROL, FORK, FRAME, REAP, REPLY, frame_of

CONTROL_SECONDS = 30.0
"""For requests to the server, which take milliseconds."""
SEND_SECONDS = 10.0
"""For handing jobs to an idle worker, which reads at once unless it is stopped."""
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from voting.worker_server import main; "
_BOOT += "main(int(sys.argv[2]), json.loads(sys.argv[3]))"


class Server:
    """Handle of the warm process that forks workers (`voting.worker_server`). Requests are answered in order."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.control, remote = socket.socketpair()
        self.control.settimeout(CONTROL_SECONDS)
        self._answered: deque[Callable[[int], None]] = deque()
        self._buffer = b""
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
        self._answered.append(lambda _: None)  # its first word says that it is ready

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout: float) -> None:
        """Until every request is answered. Raises VotingError when the server is late or gone."""
        deadline = time.monotonic() + timeout
        try:
            while self._answered:
                self.control.settimeout(max(0.001, deadline - time.monotonic()))
                self.read_answers()
        except OSError as error:
            self.stop(timeout=1.0)
            raise VotingError(
                f"the voting worker server (pid {self.pid}) did not start within {timeout:g} s "
                f"(exit code {self._process.poll()}): {error}; its own error output says why"
            ) from error
        self.control.settimeout(CONTROL_SECONDS)

    def read_answers(self) -> None:
        """Take what the server has answered and tell those who asked. Raises OSError when it is gone."""
        data = self.control.recv(1 << 12)
        if not data:
            raise ConnectionResetError("the process is gone")
        self._buffer += data
        while len(self._buffer) >= REPLY.size:
            answer, self._buffer = self._buffer[: REPLY.size], self._buffer[REPLY.size :]
            self._answered.popleft()(int(REPLY.unpack(answer)[0]))

    def fork(self, niceness: int, on_forked: Callable[[int, socket.socket], None]) -> None:
        """Ask for a new worker; `on_forked` gets its process id and our end of its socket. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [CONTROL.pack(FORK, niceness)], [theirs.fileno()])
        self._answered.append(lambda pid: on_forked(pid, ours))

    def reap(self, pid: int, on_reaped: Callable[[int], None]) -> None:
        """Ask for the exit code (negative for a signal) of a worker that is dead or was just killed."""
        self.control.sendall(CONTROL.pack(REAP, pid))
        self._answered.append(on_reaped)

    def stop(self, timeout: float) -> None:
        """End the server and with it every worker."""
        self.control.close()
        try:
            self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=CONTROL_SECONDS)


@dataclass(eq=False, slots=True)
class Worker:
    """One forked process and the jobs it was sent."""

    pid: int
    connection: socket.socket
    is_slow: bool
    call: Call | None = None
    jobs: deque[int] = field(default_factory=deque)
    """Of `call`, in the order sent; the first is the one it is on."""
    wall_deadline: float = 0.0
    cpu_seconds_seen: float = 0.0
    _buffer: bytearray = field(default_factory=bytearray)

    def send(self, call: Call, jobs: Sequence[int], cpu_seconds: float) -> None:
        """Give it jobs, each with so much CPU time. Raises OSError when it is gone."""
        self.call, self.jobs = call, deque(jobs)
        self.connection.settimeout(SEND_SECONDS)
        self.connection.sendall(frame_of([cpu_seconds, call.function, [call.arguments[job] for job in jobs]]))

    def read(self) -> list[tuple[str, Any, bool]] | None:
        """(status, value, is spent) of the jobs it has finished since; None when it is gone."""
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        self._buffer += data
        results = []
        start = 0
        while len(self._buffer) - start >= FRAME.size:
            end = start + FRAME.size + FRAME.unpack_from(self._buffer, start)[0]
            if len(self._buffer) < end:
                break
            results.append(tuple(json.loads(self._buffer[start + FRAME.size : end])))
            start = end
        del self._buffer[:start]
        return results

    def used_cpu(self) -> bool:
        """Whether it has used CPU time since last asked: a job that waits for the machine is not one that sleeps."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        before, self.cpu_seconds_seen = self.cpu_seconds_seen, seconds
        return seconds > before

    def kill(self) -> None:
        """Close its socket and kill it; the server keeps its process id until it is reaped."""
        self.connection.close()
        os.kill(self.pid, signal.SIGKILL)
