"""Placement on a cluster of several nodes: samplers spread, nodes leave and join, what finds no place is explained.

The cluster and the placement code are real; the actors do nothing but say where they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.cluster import Cluster
from orchestration.plan import make_plan
from quorum.errors import EngineDied, ResourceError, RolloutError
from rollout.ray_errors import translate
from tests.integration.cluster import RayNodes, let_in, ray_nodes

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(120)]

CALL_SECONDS = 30.0


class Here:
    """Says which node it runs on."""

    def node_id(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(2, 2, 2) as running, let_in():
        yield running


@pytest.fixture
def cluster(nodes: RayNodes) -> Iterator[Cluster]:
    sections = {
        "run": {"dir": "x"},
        "model": {"path": "m"},
        "data": {"train": [{"path": "p"}]},
        "rollout": {"num_samplers": 3},
        "cluster": {"address": nodes.address, "device": "cpu"},
        "deadlines": {"start_seconds": 20},
    }
    config = RunConfig.model_validate(sections)
    started = Cluster.start(config, make_plan(config, cluster={"CPU": 6.0}), f"test-{time.time_ns()}")
    try:
        yield started
    finally:
        started.stop()


def is_placed(group: Any) -> bool:
    """Whether a placement group has its place now. Does not wait."""
    import ray

    return bool(ray.util.placement_group_table(group)["state"] == "CREATED")


def actor_in(options: dict[str, Any]) -> tuple[Any, str]:
    """An actor with these options, and the id of its node."""
    import ray

    actor = ray.remote(Here).options(**options).remote()
    return actor, ray.get(actor.node_id.remote(), timeout=CALL_SECONDS)


def error_of(actor: Any, name: str, limit: float) -> Exception:
    """What a call to the actor ends with, as a pool sees it; a process outlives its node's raylet by moments."""
    import ray

    began = time.monotonic()
    while time.monotonic() - began < limit:
        try:
            ray.get(actor.node_id.remote(), timeout=CALL_SECONDS)
        except ray.exceptions.RayError as exc:
            return translate(exc, name, RolloutError)
        time.sleep(0.1)
    raise AssertionError(f"{name} still answers {limit:g} s after its node left")


def replaced_in(cluster: Cluster, group: Any, limit: float) -> str:
    """Node of an actor started in the place of one whose node left, again and again until Ray knows that it left."""
    import ray

    began = time.monotonic()
    while time.monotonic() - began < limit:
        try:
            return actor_in(cluster.options(group, 1, 0))[1]
        except ray.exceptions.RayError:
            time.sleep(0.5)
    raise AssertionError(f"no replacement within {limit:g} s")


def test_samplers_spread_over_the_nodes_one_placement_group_each(cluster: Cluster, nodes: RayNodes) -> None:
    cluster.place("rank-0", 1, 0)
    groups = [cluster.reserve(f"sampler-{index}", 1, 0) for index in range(3)]
    for group in groups:
        cluster.await_placed(group)
    where = [actor_in(cluster.options(group, 1, 0))[1] for group in groups]
    assert sorted(where) == sorted(nodes.node_ids)


def test_what_finds_no_place_says_what_it_needs_and_what_the_largest_free_bundle_is(cluster: Cluster) -> None:
    for index in range(5):  # of six: however they lie on the nodes, no two that are free are on one
        cluster.place(f"sampler-{index}", 1, 0)
    group = cluster.reserve("sampler-5", 2, 0)
    assert not is_placed(group)
    with pytest.raises(ResourceError) as caught:
        cluster.await_placed(group, seconds=1)
    text = str(caught.value)
    assert "sampler-5 could not be placed within 1 s: it needs 2 CPU, 0 GPU on one node" in text
    assert "the largest free bundle is 1 CPU, 0 GPU" in text and "even when empty" not in text
    with pytest.raises(ResourceError, match="no node could hold it even when empty: the largest has 2 CPU, 0 GPU"):
        cluster.await_placed(cluster.reserve("sampler-6", 5, 0), seconds=0.5)


def test_a_released_place_is_free_for_the_next(cluster: Cluster) -> None:
    held = [cluster.reserve(f"sampler-{index}", 2, 0) for index in range(3)]
    for group in held:
        cluster.await_placed(group)
    waiting = cluster.reserve("sampler-3", 2, 0)
    assert not is_placed(waiting)
    cluster.release(held[0])
    cluster.release(held[0])
    cluster.await_placed(waiting, seconds=10)
    assert is_placed(waiting)


def test_nodes_wanted_of_an_autoscaler_are_noted_and_withdrawn_where_none_runs(cluster: Cluster) -> None:
    from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    assert cluster.request_nodes(cluster.plan.bundles(5)) == ""
    assert _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL).count(b"CPU") == 5 + 1 + 1
    cluster.request_nodes([])
    assert _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) == b"[]"


def test_a_node_that_leaves_takes_its_samplers_with_it_by_name(cluster: Cluster, nodes: RayNodes) -> None:
    import ray

    groups = [cluster.reserve(f"sampler-{index}", 1, 0) for index in range(3)]
    actors = [actor_in(cluster.options(group, 1, 0)) for group in groups]
    leaving = nodes.node_ids[-1]
    lost = [index for index, (_, node_id) in enumerate(actors) if node_id == leaving]
    assert len(lost) == 1
    nodes.remove_node(leaving)
    error = error_of(actors[lost[0]][0], f"sampler-{lost[0]}", limit=20)
    assert type(error) is EngineDied and f"sampler-{lost[0]} is gone" in str(error)
    for index, (actor, node_id) in enumerate(actors):
        assert index in lost or ray.get(actor.node_id.remote(), timeout=CALL_SECONDS) == node_id
    assert replaced_in(cluster, groups[lost[0]], limit=45) in nodes.node_ids, "its place moves to another node"


def test_a_node_that_joins_takes_what_was_waiting_for_a_place(cluster: Cluster, nodes: RayNodes) -> None:
    waiting = cluster.reserve("sampler-9", 4, 0)
    assert not is_placed(waiting), "no node is that large"
    joined = nodes.add_node(4)
    cluster.await_placed(waiting, seconds=15)
    assert actor_in(cluster.options(waiting, 4, 0))[1] == joined
