"""Whole runs on a cluster of three nodes: real samplers, voters and ranks; one node leaves, another joins."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestration.run_dir import read_info
from tests.integration.cluster import RayNodes, let_in, ray_nodes
from tests.integration.run_helpers import Finished, finish, history, quorum, start, wait_for_ledger
from tests.integration.test_run import PROMPTS, arguments, write_data

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(600)]

STEPS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("nodes")
    write_data(directory / "data", num_held_out=20)
    return directory


@pytest.fixture(scope="module")
def local(root: Path) -> Finished:
    """The same history on this machine alone, with one sampler."""
    done = quorum(*three_samplers(root, "local", "rollout.num_samplers=1"))
    assert done.code == 0, done.output[-3000:]
    return done


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    """Room for three samplers, a rank and a voter, and one CPU more."""
    with ray_nodes(2, 2, 2) as running:
        yield running


def three_samplers(root: Path, name: str, *overrides: str) -> list[str]:
    """Arguments of a short run with three samplers and one rank."""
    return arguments(
        root / name,
        root / "data",
        f"run.num_steps={STEPS}",
        "checkpoint.every_steps=0",
        "rollout.num_samplers=3",
        "learner.num_ranks=1",
        *overrides,
    )


def run_on(nodes: RayNodes, root: Path, name: str, meanwhile: Callable[[dict[str, str]], None]) -> Finished:
    """A run on the cluster; `meanwhile` is called with its placements once its first step has ended."""
    began = time.monotonic()
    with let_in() as env:
        process = start(*three_samplers(root, name, f"cluster.address={nodes.address}"), env=env)
        try:
            wait_for_ledger(root / name, PROMPTS, limit=240)
            meanwhile(places(nodes, root / name))
        except AssertionError:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{name}: {process.communicate(timeout=30)[0][-3000:]}") from None
    return finish(process, began)


def places(nodes: RayNodes, run: Path) -> dict[str, str]:
    """Node of every placement group of a live run, by the name of who is in it."""
    import ray

    prefix = f"{read_info(run).namespace}-"
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        table = ray.util.placement_group_table().values()
    finally:
        ray.shutdown()
    return {
        group["name"].removeprefix(prefix): group["bundles_to_node_id"][0]
        for group in table
        if group["name"].startswith(prefix) and group["state"] == "CREATED"
    }


def test_samplers_spread_over_three_nodes_and_the_history_is_that_of_one_machine(
    nodes: RayNodes, root: Path, local: Finished
) -> None:
    where: dict[str, str] = {}
    done = run_on(nodes, root, "calm", where.update)
    assert done.code == 0, done.output[-3000:]
    assert {where[f"sampler-{index}"] for index in range(3)} == set(nodes.node_ids)
    assert history(root / "calm") == history(root / "local")


def test_a_run_outlives_a_node_and_takes_one_that_joins(nodes: RayNodes, root: Path, local: Finished) -> None:
    """The node that is taken away holds a sampler and not the rank; the driver is on the head."""

    def change(where: dict[str, str]) -> None:
        leaving = next(node_id for node_id in nodes.node_ids[1:] if node_id != where["rank-0"])
        nodes.remove_node(leaving)
        time.sleep(3)
        nodes.add_node(2)

    done = run_on(nodes, root, "changed", change)
    assert done.code == 0, done.output[-3000:]
    assert history(root / "changed") == history(root / "local")
    assert "sampler-" in done.output, "the lost sampler is named"
