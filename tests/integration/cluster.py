"""A Ray cluster of several nodes on this machine, in a process of its own: nodes come and go while a test runs.

Token authentication is on, as for a Ray that a run starts, and with the same token: Ray listens on all interfaces.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rollout import watchdog

START_SECONDS, CHANGE_SECONDS, STOP_SECONDS = 60.0, 30.0, 40.0
OBJECT_STORE_BYTES = 80 << 20
"""The least that Ray accepts is 75 MiB."""
CLIENT_ENV = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_AUTO_CONNECT": "0"}
_hosted: dict[str, Any] = {}
"""In the hosting process: the cluster, and its nodes by id."""


@dataclass
class RayNodes:
    """The running cluster. Every call is bounded."""

    address: str
    _host: ProcessPoolExecutor
    node_ids: list[str] = field(default_factory=list)
    """Living nodes; the head is the first."""

    def add_node(self, num_cpus: int, num_gpus: int = 0) -> str:
        """Start another node and wait until the head knows it. Returns its id."""
        node_id: str = self._host.submit(_add_node, num_cpus, num_gpus).result(timeout=CHANGE_SECONDS)
        self.node_ids.append(node_id)
        return node_id

    def remove_node(self, node_id: str, *, graceful: bool = False) -> None:
        """End all processes of a node; not graceful is SIGKILL, as when its machine is taken away."""
        self._host.submit(_remove_node, node_id, graceful).result(timeout=CHANGE_SECONDS)
        self.node_ids.remove(node_id)


@contextmanager
def ray_nodes(*cpus: int) -> Iterator[RayNodes]:
    """A cluster with one node per entry of `cpus`, the head first. All its processes are gone on leaving."""
    mark = watchdog.new_mark("nodes")
    host = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare)
    sentinel = watchdog.start(mark)
    try:
        with watchdog.marking(mark):
            address, head_id = host.submit(_start_head, cpus[0]).result(timeout=START_SECONDS)
            nodes = RayNodes(address, host, [head_id])
            for count in cpus[1:]:
                nodes.add_node(count)
            yield nodes
            host.submit(_stop).result(timeout=STOP_SECONDS)
    finally:
        host.shutdown(wait=False, cancel_futures=True)
        watchdog.end_marked(mark, grace_seconds=2.0)
        watchdog.dismiss(sentinel)


@contextmanager
def let_in() -> Iterator[dict[str, str]]:
    """This process as a client that sends Ray's token. Gives the environment that other clients need."""
    before = {name: os.environ.get(name) for name in CLIENT_ENV}
    os.environ.update(CLIENT_ENV)
    from ray._private.authentication_test_utils import reset_auth_token_state

    reset_auth_token_state()  # an earlier test may have had Ray read its settings already
    try:
        yield os.environ | CLIENT_ENV
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _prepare() -> None:
    """In the hosting process: settings first, then Ray's token, made if this user has none yet."""
    os.environ.update(CLIENT_ENV | {"RAY_health_check_period_ms": "1000"})  # five failures; by default one in 3 s
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled

    ensure_token_if_auth_enabled(create_token_if_missing=True)


def _start_head(num_cpus: int) -> tuple[str, str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    _hosted["cluster"], _hosted["nodes"] = cluster, {}
    node = cluster.add_node(num_cpus=num_cpus, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False)
    return cluster.address, _known(node)


def _add_node(num_cpus: int, num_gpus: int) -> str:
    node = _hosted["cluster"].add_node(num_cpus=num_cpus, num_gpus=num_gpus, object_store_memory=OBJECT_STORE_BYTES)
    return _known(node)


def _known(node: Any) -> str:
    _hosted["nodes"][node.node_id] = node
    return str(node.node_id)


def _remove_node(node_id: str, graceful: bool) -> None:
    _hosted["cluster"].remove_node(_hosted["nodes"].pop(node_id), allow_graceful=graceful)


def _stop() -> None:
    _hosted["cluster"].shutdown()
