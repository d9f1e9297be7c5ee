"""A Ray cluster as `ray start` makes it: a head with its job server on loopback, and workers; each node has a folder
of its own, as on machines of their own. Token authentication is on, with this user's token or a given one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rollout import watchdog
from tests.integration.run_helpers import ROOT, Finished, finish, quorum, start

START_SECONDS = 90.0
OBJECT_STORE_BYTES = 80 << 20
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass
class JobCluster:
    """A running cluster, and `quorum` with its address and token in the environment."""

    port: int
    dashboard_port: int
    folder: Path
    env: dict[str, str]
    num_nodes: int = 0
    marks: dict[int, str] = field(default_factory=dict)
    """Of all processes of a node, by its index."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def add_node(self, num_cpus: int) -> int:
        """Start another node. Returns its index; the head is 0."""
        index = self.num_nodes
        self.num_nodes += 1
        mark = self.marks[index] = watchdog.new_mark(f"node{index}")
        folder = self.folder / f"n{index}"
        where = (
            ["--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"]
            + [f"--ray-client-server-port={free_port()}"]
            if index == 0
            else [f"--address=127.0.0.1:{self.port}"]
        )
        command = [RAY, "start", *where, "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        with watchdog.marking(mark):
            env = self.env | {name: os.environ[name] for name in (mark.partition("=")[0], watchdog.KEEP_ENVIRONMENT)}
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=START_SECONDS, cwd="/")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return index

    def kill_node(self, index: int) -> None:
        """SIGKILL all processes of a node, as when its machine is taken away."""
        watchdog.end_marked(self.marks.pop(index))

    def quorum(self, *arguments: str, timeout: float = 240.0) -> Finished:
        """Run `quorum ARGUMENTS` against the cluster to its end."""
        return quorum(*arguments, env=self.env, timeout=timeout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`quorum ARGUMENTS` against the cluster, in the background; see `end`."""
        return start(*arguments, env=self.env)

    def end(self, process: subprocess.Popen[str], timeout: float = 240.0) -> Finished:
        """Wait for a command of `start`."""
        return finish(process, time.monotonic(), timeout)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def job_cluster(*cpus: int, env: Mapping[str, str] | None = None) -> Iterator[JobCluster]:
    """A cluster with one node per entry of `cpus`, the head first. All its processes are gone on leaving."""
    folder = Path(tempfile.mkdtemp(prefix="qj-"))  # short: Ray's sockets are below it
    token = folder / "token"
    token.write_text("t" * 8 + os.urandom(16).hex())
    token.chmod(0o600)
    settings = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_health_check_period_ms": "1000",
        "PYTHONPATH": "",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    cluster = JobCluster(free_port(), free_port(), folder, inherited | settings | dict(env or {}))
    cluster.env["RAY_ADDRESS"] = cluster.url
    nodes = dict(cluster.env)
    try:
        cluster.env.pop("RAY_ADDRESS")
        for count in cpus:
            cluster.add_node(count)
        cluster.env = nodes
        yield cluster
    finally:
        for mark in cluster.marks.values():
            watchdog.end_marked(mark)
        shutil.rmtree(folder, ignore_errors=True)


def repository() -> str:
    """What is uploaded in tests."""
    return str(ROOT)
