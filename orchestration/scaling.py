"""How many samplers a live run has: by order of `quorum scale`, and by the autoscaling policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from configs.schema import RunConfig
from orchestration.autoscale import Autoscaler, Autoscaling, StepWait
from orchestration.control import ControlDesk, pool_status, sampler_details
from orchestration.stack import Stack
from quorum.errors import ResourceError
from rollout.pool import SamplerPool


@dataclass
class Scaling:
    """Changes the number of samplers while the run goes on.

    consumes: orders, and the waits of finished steps.  waits for: nothing.  unblocked by: nothing.
    produces: samplers that start or leave, and the status that `quorum scale` reads.
    """

    stack: Stack
    pool: SamplerPool
    desk: ControlDesk
    say: Callable[[str], None]
    step: int = 0
    phase: Callable[[], str] = lambda: ""
    """What the driver does, in words."""
    _autoscaling: Autoscaling | None = None

    @classmethod
    def open(cls, config: RunConfig, stack: Stack, namespace: str, say: Callable[[str], None]) -> Scaling | None:
        """Open the desk of a run; None for one without samplers."""
        if stack.pool is None:
            return None
        section = config.rollout.autoscale
        policy = None if section is None else Autoscaling(Autoscaler(section))
        desk = ControlDesk.open(config.rollout, namespace, is_colocated=stack.plan.colocate)
        return cls(stack, stack.pool, desk, say, _autoscaling=policy)

    def attend(self) -> None:
        """Take orders and say how the run stands; called again and again, and mostly too early."""
        now = time.monotonic()
        if not self.desk.is_due(now):
            return
        status = pool_status(self.pool, num_wanted=self.pool.roster.num_wanted, step=self.step)
        details = {"details": sampler_details(self.pool), "phase": self.phase()}
        self.desk.post(status | details)
        for order in self.desk.poll(now):
            self._resize(order.num_samplers, "ordered")

    def after_step(self, step: int, wait: StepWait) -> None:
        """Let the policy decide.

        Args:
            step: steps done.
            wait: what learner and samplers waited in the last one.
        """
        self.step = step
        if self._autoscaling is None:
            return
        wanted = self.pool.roster.num_wanted
        num = self._autoscaling.observe(wait, num_wanted=wanted, num_ready=self.pool.num_ready)
        if num != wanted:
            waits = f"the learner waited {wait.learner_wait_share:.0%}, samplers idled {wait.sampler_idle_share:.0%}"
            self._resize(num, f"{waits} of the last step")

    def close(self) -> None:
        """End the desk."""
        self.desk.close()

    def _resize(self, num_samplers: int, why: str) -> None:
        before = self.pool.roster.num_wanted
        if num_samplers == before:
            return
        if trouble := self.stack.cluster.request_nodes(self.stack.plan.bundles(num_samplers)):
            self.say(trouble)
        try:
            self.pool.resize(num_samplers)
        except ResourceError as exc:
            self.say(f"{num_samplers} samplers {why}, but {exc}")
        else:
            self.say(f"{num_samplers} samplers from now on, were {before} ({why})")
