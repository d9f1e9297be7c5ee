"""The warm process behind a worker pool: imports once, forks workers on demand, reaps them. Standard library only.

It is started with a fresh interpreter, so it never runs the user's main script again. It ends when its pool closes
the control socket or the pool's process dies; workers end with it. A worker is ended by the kernel (SIGPROF) when
one job has used its CPU time, so a busy machine cannot change what is decided.

Wire: the control socket carries CONTROL requests (fork at a niceness, with the worker's socket attached; reap a process
id) and one REPLY each, in order; a worker's socket carries frames of JSON: [CPU seconds of each job, function, list of
arguments] in, one [status, value, is_spent] per job out, in order. A spent worker (out of memory, or close to it) is to
be replaced.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

FRAME = struct.Struct("!I")
CONTROL = struct.Struct("!cq")
REPLY = struct.Struct("!q")
FORK, REAP = b"F", b"R"
DONE, ERROR, MEMORY = "done", "error", "memory"
REAP_SECONDS = 10.0
PARENT_POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def main(control_fd: int, settings: dict[str, Any]) -> None:
    """Run the server until its pool is gone.

    Args:
        control_fd: the server's end of the control socket.
        settings: `preload` ("module" or "module:function" to import and call), `memory_bytes`, `parent` (process id
            of the pool).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    control = socket.socket(fileno=control_fd)
    for spec in settings["preload"]:
        if ":" in spec:
            _function(spec)()
        else:
            importlib.import_module(spec)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    try:
        control.sendall(REPLY.pack(os.getpid()))
        _serve(control, children, settings)
    except OSError:
        pass  # the pool is gone: end, as asked
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            _reap(pid)
        os._exit(0)


def _reap(pid: int) -> int:
    """Wait status of a child that is dead or was just killed; gives up with SIGKILL's after REAP_SECONDS."""
    deadline = time.monotonic() + REAP_SECONDS
    while time.monotonic() < deadline:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            return status
        time.sleep(0.001)
    return signal.SIGKILL


def _serve(control: socket.socket, children: set[int], settings: dict[str, Any]) -> None:
    while True:
        readable, _, _ = select.select([control], [], [], PARENT_POLL_SECONDS)
        if not readable:
            if os.getppid() != settings["parent"]:
                return
            continue
        message, fds, _, _ = socket.recv_fds(control, CONTROL.size, 1)
        if len(message) != CONTROL.size:
            return
        order, number = CONTROL.unpack(message)
        if order == FORK:
            pid = _fork(control, socket.socket(fileno=fds[0]), settings, niceness=number)
            children.add(pid)
            control.sendall(REPLY.pack(pid))
        else:
            status = _reap(number)  # the pool sends this for a worker that is dead or was just killed
            children.discard(number)
            control.sendall(REPLY.pack(os.waitstatus_to_exitcode(status)))


def _fork(control: socket.socket, connection: socket.socket, settings: dict[str, Any], niceness: int) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        connection.close()
        return pid
    try:
        control.close()
        _end_with_parent(server)
        os.nice(niceness)
        _work(connection, settings["memory_bytes"])
    finally:
        os._exit(1)


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _work(connection: socket.socket, memory_bytes: int) -> None:
    """Run jobs until the socket closes. The memory limit is for what jobs add to what the server had imported."""
    inherited_peak = _peak_bytes()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = _address_space_bytes() + memory_bytes
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (message := read_frame(connection)) is not None:
        cpu_seconds, function, jobs = message
        for arguments in jobs:
            status, value = _run(function, arguments, cpu_seconds)
            is_spent = status == MEMORY or _peak_bytes() - inherited_peak > memory_bytes // 2
            connection.sendall(frame_of([status, value, is_spent]))
    os._exit(0)


def _run(function: str, arguments: list[Any], cpu_seconds: float) -> tuple[str, Any]:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        value = _function(function)(*arguments)
        frame_of(value)
        return DONE, value
    except MemoryError:
        return MEMORY, None
    except Exception as error:  # noqa: BLE001  (whatever a job raises is its result)
        return ERROR, type(error).__name__  # only the name: printing a hostile expression may never end
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _peak_bytes() -> int:
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _function(spec: str) -> Any:
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


def frame_of(message: Any) -> bytes:
    """A message as one frame: its length, then JSON."""
    body = json.dumps(message).encode()
    return FRAME.pack(len(body)) + body


def read_frame(connection: socket.socket) -> Any | None:
    """The next message of a blocking socket; None when the other side is gone."""
    head = _read(connection, FRAME.size)
    body = _read(connection, FRAME.unpack(head)[0]) if head else b""
    return json.loads(body) if body else None


def _read(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or none when the other side is gone."""
    parts = []
    while size > 0:
        part = connection.recv(size)
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
