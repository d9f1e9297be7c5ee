"""What is said of a bundle that finds no place."""

from __future__ import annotations

from orchestration.placement import NodeRoom, least_used, roomiest, shortfall


def node(name: str, free: tuple[float, float], total: tuple[float, float] | None = None) -> NodeRoom:
    cpus, gpus = total or free
    return NodeRoom(name, "10.0.0.1", {"CPU": cpus, "GPU": gpus}, {"CPU": free[0], "GPU": free[1]})


def test_the_largest_free_bundle_is_the_one_that_lacks_least_of_what_is_needed() -> None:
    nodes = [node("many-cpus", (64, 0)), node("a-gpu", (2, 1)), node("small", (1, 0))]
    assert roomiest({"CPU": 4, "GPU": 2}, nodes) == nodes[1], "GPUs are what is missing"
    assert roomiest({"CPU": 4}, nodes) == nodes[0]
    assert roomiest({"CPU": 1}, []) is None


def test_a_busy_cluster_is_told_from_one_that_is_too_small() -> None:
    busy = [node("a", (2, 0), (8, 0)), node("b", (3, 0), (8, 0))]
    assert shortfall({"CPU": 4}, busy) == (
        "it needs 4 CPU, 0 GPU on one node; the largest free bundle is 3 CPU, 0 GPU, on node b (10.0.0.1) of 2"
    )
    assert shortfall({"CPU": 9}, busy).endswith("no node could hold it even when empty: the largest has 8 CPU, 0 GPU")


def test_resources_that_are_used_up_are_not_listed_by_ray_and_count_as_none() -> None:
    used_up = [NodeRoom("a", "10.0.0.1", {"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0})]
    assert "the largest free bundle is 1 CPU, 0 GPU" in shortfall({"CPU": 1, "GPU": 1}, used_up)


def test_a_cluster_without_nodes_says_so() -> None:
    assert "no living node" in shortfall({"CPU": 1}, [])


def test_a_bundle_goes_where_fewest_of_its_kind_are_and_there_is_room() -> None:
    nodes = [node("a", (8, 0)), node("b", (2, 0)), node("c", (1, 0))]
    assert least_used({"CPU": 2}, nodes, {}) == nodes[0], "most room"
    assert least_used({"CPU": 2}, nodes, {"a": 1}) == nodes[1], "fewest of its kind"
    assert least_used({"CPU": 2}, nodes, {"a": 2, "b": 2}) == nodes[0], "c has no room"
    assert least_used({"CPU": 9}, nodes, {}) is None
