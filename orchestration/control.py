"""Orders to a live run, and how it stands: one small actor per run between its driver and whoever asks.

The driver's side is `ControlDesk`, which never makes the loop wait; the clients' is `orchestration.live_run`. The
actor decides nothing but whether a number of samplers is allowed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema import RolloutSection
from orchestration.cluster import on_this_node
from rollout.pool import SamplerPool

ACTOR_NAME = "control"
"""Of the actor, in the namespace of the run's driver."""
LOOK_SECONDS = 0.5
"""At most so often the driver looks for orders and hands over how it stands."""
HOLD_SECONDS = 30.0
"""A driver's question for orders is answered after so long, also when there are none."""
CALL_SECONDS = 15.0
"""For the actor to answer."""


def sampler_count(number: int) -> str:
    """ "1 sampler", "2 samplers"."""
    return f"{number} sampler{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants of a live run."""

    num_samplers: int
    """So many samplers from now on; an autoscaling policy goes on from there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a wish, in words."""

    is_accepted: bool
    text: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How many samplers a run may be told to have."""

    min_samplers: int
    max_samplers: int | None
    """None: no limit."""
    setting: str
    """Where the limits come from, for the message."""
    fixed: str = ""
    """Why the number cannot change at all; empty where it can."""

    @classmethod
    def of(cls, section: RolloutSection, *, is_colocated: bool = False) -> Limits:
        """Those of a configuration: rollout.min_samplers, and the range of the autoscaling policy if there is one."""
        scale = section.autoscale
        fixed = "every sampler shares its GPU with a learner rank (cluster.colocate)" if is_colocated else ""
        if scale is None:
            return cls(section.min_samplers, None, "rollout.min_samplers", fixed)
        lowest = max(section.min_samplers, scale.min_samplers)
        return cls(lowest, scale.max_samplers, "rollout.min_samplers, rollout.autoscale", fixed)

    def refusal(self, num_samplers: int) -> str | None:
        """Why a number is not allowed, and what is; None where it is."""
        if self.fixed:
            return f"the number of samplers cannot change in a live run: {self.fixed}; resume it with another"
        if num_samplers < self.min_samplers:
            return (
                f"{sampler_count(num_samplers)} would be fewer than the run may have, {self.min_samplers} "
                f"({self.setting}); ask for {self.min_samplers} or more, or resume the run with lower limits"
            )
        if self.max_samplers is not None and num_samplers > self.max_samplers:
            return (
                f"{num_samplers} samplers are more than the run's policy allows, {self.max_samplers} ({self.setting}); "
                f"ask for {self.max_samplers} or fewer, or resume the run with rollout.autoscale.max_samplers raised"
            )
        return None


class Control:
    """The actor. All methods are coroutines of one event loop; none but `take_orders` waits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._orders: list[Order] = []
        self._has_orders = asyncio.Event()
        self._status: dict[str, Any] = {}
        self._posted_at: float | None = None

    async def scale(self, num_samplers: int) -> Answer:
        """Order so many samplers. The driver takes the order within moments, between two looks at its samplers."""
        if refusal := self._limits.refusal(num_samplers):
            return Answer(False, refusal)
        self._orders.append(Order(num_samplers))
        self._has_orders.set()
        wanted = self._status.get("num_wanted")
        return Answer(
            True, f"{sampler_count(num_samplers)} ordered" + (f", were {wanted}" if wanted is not None else "")
        )

    async def status(self) -> dict[str, Any]:
        """What the driver posted last, and `age_seconds` since then; empty before the first time."""
        if self._posted_at is None:
            return {}
        return self._status | {"age_seconds": time.monotonic() - self._posted_at}

    async def take_orders(self) -> list[Order]:
        """Orders since the last call, oldest first; waits up to HOLD_SECONDS for one."""
        try:
            await asyncio.wait_for(self._has_orders.wait(), HOLD_SECONDS)
        except TimeoutError:
            return []
        taken, self._orders = self._orders, []
        self._has_orders.clear()
        return taken

    async def post(self, status: dict[str, Any]) -> None:
        """How the run stands."""
        self._status, self._posted_at = status, time.monotonic()


@dataclass
class ControlDesk:
    """The driver's side: orders come in and the run's state goes out, without ever waiting.

    consumes: orders of clients.  waits for: nothing.  unblocked by: nothing.  produces: the posted status.
    """

    actor: Any
    """Handle of the actor."""
    _question: Any = None
    """A running `take_orders`."""
    _next_look: float = 0.0
    _status: Mapping[str, Any] | None = None
    """Not handed over yet."""

    @classmethod
    def open(cls, section: RolloutSection, namespace: str, *, is_colocated: bool = False) -> ControlDesk:
        """Make the actor beside the driver; Ray restarts it should it die.

        Args:
            section: says how many samplers are allowed.
            namespace: of the run's driver.
            is_colocated: samplers share GPUs with ranks, so their number is fixed.
        """
        import ray

        remote = ray.remote(Control).options(
            name=ACTOR_NAME,
            namespace=namespace,
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=on_this_node(),
        )
        return cls(remote.remote(Limits.of(section, is_colocated=is_colocated)))

    def is_due(self, now: float) -> bool:
        """Whether `poll` would look now: LOOK_SECONDS after it last did."""
        return now >= self._next_look

    def post(self, status: Mapping[str, Any]) -> None:
        """Hand over how the run stands, with the next `poll`; only the newest counts."""
        self._status = status

    def poll(self, now: float) -> list[Order]:
        """Orders that came; empty most of the time. Looks at most every LOOK_SECONDS, by the clock of `now`.

        A control actor that is gone or being restarted gives no orders and raises nothing: `quorum scale` says so.
        """
        import ray

        if not self.is_due(now):
            return []
        self._next_look = now + LOOK_SECONDS
        if self._status is not None:
            self.actor.post.remote(dict(self._status))
            self._status = None
        if self._question is None:
            self._question = self.actor.take_orders.remote()
        if not ray.wait([self._question], timeout=0)[0]:
            return []
        question, self._question = self._question, None
        try:
            orders: list[Order] = ray.get(question, timeout=CALL_SECONDS)
        except ray.exceptions.RayError:
            return []  # asked again with the next look
        return orders

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self.actor)


def pool_status(pool: SamplerPool, *, num_wanted: int, step: int) -> dict[str, Any]:
    """What a driver posts of its samplers.

    Args:
        pool: of the policy.
        num_wanted: samplers that the run should have.
        step: that is running.
    """
    return {
        "step": step,
        "num_wanted": num_wanted,
        "num_ready": pool.num_ready,
        "num_lost": pool.roster.num_lost,
        "num_requeued": pool.num_requeued,
        "samplers": {one.sampler_id: one.state.value for one in pool.samplers},
        "events": list(pool.roster.history),
    }


def sampler_details(pool: SamplerPool) -> dict[str, dict[str, Any]]:
    """What each sampler of a pool does, for `quorum top`: version, running groups, tokens/s of what runs (about)."""
    return {
        one.sampler_id: {
            "version": one.version,
            "groups": len(one.calls),
            "tokens_per_second": one.num_completions / one.seconds_per_token if one.seconds_per_token else None,
        }
        for one in pool.samplers
    }
