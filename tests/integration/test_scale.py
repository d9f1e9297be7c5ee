"""`quorum scale` against a live Ray: order, progress, refusal; and a driver that polls without ever waiting."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.cluster import Cluster
from orchestration.control import ControlDesk, Order, pool_status
from orchestration.plan import make_plan
from orchestration.run_dir import RunDir
from rollout.handle import SamplerState
from tests.integration.run_helpers import ROOT, Finished

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(180)]

COMMAND_SECONDS = 60.0


class Driver:
    """A run without a loop: it polls its desk, and a sampler takes a second to become READY."""

    def __init__(self, path: Path) -> None:
        sections = {
            "run": {"dir": str(path)},
            "model": {"path": "m"},
            "data": {"train": [{"path": "p"}]},
            "rollout": {"num_samplers": 2, "autoscale": {"max_samplers": 4}},
            "cluster": {"device": "cpu"},
        }
        config = RunConfig.model_validate(sections)
        self.run_dir = RunDir.create(config, "hash")
        self.cluster = Cluster.start(config, make_plan(config), self.run_dir.info.namespace)
        self.run_dir.set_address(self.cluster.address)
        self.desk = ControlDesk.open(config.rollout, self.run_dir.info.namespace)
        self.samplers = [
            SimpleNamespace(sampler_id=f"sampler-{i}", state=SamplerState.READY, since=0.0) for i in range(2)
        ]
        self.events: list[str] = []
        self.num_wanted = 2
        self.slowest_poll = 0.0

    def turn(self) -> list[Order]:
        """One round of a loop."""
        now = time.monotonic()
        orders = self.desk.poll(now)
        self.slowest_poll = max(self.slowest_poll, time.monotonic() - now)
        for order in orders:
            self.resize(order.num_samplers, now)
        for sampler in self.samplers:
            if sampler.state is SamplerState.STARTING and now - sampler.since > 1:
                sampler.state = SamplerState.READY
        self.desk.post(pool_status(self.pool, num_wanted=self.num_wanted, step=5))
        return orders

    @property
    def pool(self) -> Any:
        """What a status reads of a pool."""
        here = [sampler for sampler in self.samplers if sampler.state is not SamplerState.RETIRED]
        roster = SimpleNamespace(num_lost=0, history=self.events)
        return SimpleNamespace(samplers=here, roster=roster, num_ready=self.num_ready, num_requeued=0)

    def resize(self, num_samplers: int, now: float) -> None:
        self.num_wanted = num_samplers
        self.events.append(f"{num_samplers} samplers wanted")
        here = [sampler for sampler in self.samplers if sampler.state is not SamplerState.RETIRED]
        for sampler in here[num_samplers:]:
            sampler.state = SamplerState.RETIRED
        for index in range(len(self.samplers), len(self.samplers) + num_samplers - len(here)):
            self.samplers.append(SimpleNamespace(sampler_id=f"sampler-{index}", state=SamplerState.STARTING, since=now))

    @property
    def num_ready(self) -> int:
        return sum(sampler.state is SamplerState.READY for sampler in self.samplers)

    def until(self, done: Any, limit: float = COMMAND_SECONDS) -> None:
        """Go on polling until `done()`."""
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < limit, "not done in time"
            self.turn()
            time.sleep(0.02)

    def during(self, *arguments: str) -> Finished:
        """Go on polling while `quorum ARGUMENTS` runs."""
        began = time.monotonic()
        executor = ThreadPoolExecutor(1)
        command = [sys.executable, "-m", "orchestration", *arguments]
        call = executor.submit(
            subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        try:
            self.until(call.done, limit=COMMAND_SECONDS + 5)
        finally:
            executor.shutdown(wait=False)
        done = call.result(timeout=0)
        return Finished(done.returncode, done.stdout + done.stderr, time.monotonic() - began)

    def scale(self, num_samplers: int, *options: str) -> Finished:
        return self.during("scale", str(self.run_dir.path), "--samplers", str(num_samplers), *options)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("scale") / "run")
    try:
        yield made
    finally:
        made.desk.close()
        made.cluster.stop()
        made.run_dir.close()


def test_a_live_run_grows_and_shrinks_and_the_command_shows_how(driver: Driver) -> None:
    grown = driver.scale(4)
    assert grown.code == 0, grown.output
    assert "4 samplers ordered, were 2" in grown.output
    assert "2 of 4 READY (sampler-2 STARTING, sampler-3 STARTING), step 5" in grown.output
    assert "4 samplers wanted" in grown.output, "events of the run are shown"
    assert "4 samplers READY after" in grown.output
    shrunk = driver.scale(1)
    assert shrunk.code == 0, shrunk.output
    assert "1 sampler READY after" in shrunk.output and driver.num_ready == 1
    assert driver.slowest_poll < 0.2, "the loop is never held up"


def test_top_shows_the_samplers_of_a_live_run_as_they_stand(driver: Driver) -> None:
    shown = driver.during("top", str(driver.run_dir.path), "--once")
    assert shown.code == 0 and "running" in shown.output, shown.output
    states = {str(sampler.sampler_id): sampler.state.name for sampler in driver.pool.samplers}
    assert states and all(
        any(name in line and state in line for line in shown.output.splitlines()) for name, state in states.items()
    )


def test_no_wait_returns_with_the_order_given(driver: Driver) -> None:
    done = driver.scale(3, "--no-wait")
    assert done.code == 0 and "READY" not in done.output, done.output
    driver.until(lambda: driver.num_wanted == 3)


def test_a_number_out_of_bounds_is_refused_with_the_bounds(driver: Driver) -> None:
    wanted = driver.num_wanted
    done = driver.scale(5)
    assert done.code == 2, done.output
    assert "more than the run's policy allows, 4" in done.output
    assert driver.num_wanted == wanted


def test_a_run_that_does_not_get_there_in_time_is_named(driver: Driver) -> None:
    driver.resize = lambda number, now: None  # type: ignore[method-assign]
    try:
        done = driver.scale(2, "--wait", "1.5")
    finally:
        del driver.resize
    assert done.code == 4, done.output
    assert "1.5 s after 2 were ordered; the order stands" in done.output


def test_a_control_actor_that_dies_is_restarted_and_takes_orders_again(driver: Driver) -> None:
    import ray

    ray.kill(driver.desk.actor, no_restart=False)
    done = driver.scale(2)
    assert done.code == 0, done.output
    assert driver.num_wanted == 2
