"""How the number of samplers changes: by order and by policy, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from configs.rollout_sections import AutoscaleSection
from orchestration.autoscale import Autoscaler, Autoscaling, StepWait
from orchestration.control import Order
from orchestration.scaling import Scaling
from quorum.errors import ResourceError


class Pool:
    """Remembers what it was told; has room for four."""

    def __init__(self, num_samplers: int) -> None:
        self.roster = SimpleNamespace(num_wanted=num_samplers, num_lost=0, history=[])
        self.num_requeued, self.samplers = 0, ()

    @property
    def num_ready(self) -> int:
        return int(self.roster.num_wanted)

    def resize(self, num_samplers: int) -> None:
        if num_samplers > 4:
            raise ResourceError("there are places for 4 samplers")
        self.roster.num_wanted = num_samplers


class Desk:
    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.posted: list[Any] = []
        self.due = True

    def is_due(self, now: float) -> bool:
        return self.due

    def poll(self, now: float) -> list[Order]:
        orders, self.orders = self.orders, []
        return orders

    def post(self, status: Any) -> None:
        self.posted.append(status)


def make(num_samplers: int, autoscale: AutoscaleSection | None = None) -> tuple[Scaling, Pool, Desk, list[str]]:
    said: list[str] = []
    asked: list[int] = []
    pool, desk = Pool(num_samplers), Desk()
    stack = SimpleNamespace(
        cluster=SimpleNamespace(request_nodes=lambda bundles: asked.append(len(bundles)) or ""),
        plan=SimpleNamespace(bundles=lambda count: [{}] * count),
    )
    policy = None if autoscale is None else Autoscaling(Autoscaler(autoscale))
    scaling = Scaling(stack, pool, desk, said.append, _autoscaling=policy)  # type: ignore[arg-type]
    return scaling, pool, desk, said


def test_an_order_changes_the_number_and_the_status_says_so() -> None:
    scaling, pool, desk, said = make(2)
    desk.orders.append(Order(3))
    scaling.attend()
    assert pool.roster.num_wanted == 3
    assert said == ["3 samplers from now on, were 2 (ordered)"]
    desk.due = False
    desk.orders.append(Order(4))
    scaling.attend()
    assert len(said) == 1 and len(desk.posted) == 1, "it looks when the desk does"
    desk.due = True
    scaling.attend()
    assert pool.roster.num_wanted == 4
    assert desk.posted[-1]["num_wanted"] == 3, "as it stood before the order"
    scaling.attend()
    assert desk.posted[-1]["num_wanted"] == 4


def test_an_order_that_cannot_be_met_is_told_and_changes_nothing() -> None:
    scaling, pool, desk, said = make(2)
    desk.orders.append(Order(9))
    scaling.attend()
    assert pool.roster.num_wanted == 2
    assert said == ["9 samplers ordered, but there are places for 4 samplers"]


def test_the_policy_adds_a_sampler_where_the_learner_waits() -> None:
    section = AutoscaleSection(min_samplers=1, max_samplers=4, interval_steps=2)
    scaling, pool, _, said = make(2, section)
    scaling.after_step(1, StepWait(0.5, 0.0))
    assert pool.roster.num_wanted == 2
    scaling.after_step(2, StepWait(0.5, 0.0))
    assert pool.roster.num_wanted == 3
    assert said == ["3 samplers from now on, were 2 (the learner waited 50%, samplers idled 0% of the last step)"]


def test_without_a_policy_the_number_stays() -> None:
    scaling, pool, _, said = make(2)
    for step in range(5):
        scaling.after_step(step, StepWait(0.9, 0.0))
    assert pool.roster.num_wanted == 2 and said == []
