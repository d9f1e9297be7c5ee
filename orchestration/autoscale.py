"""How many samplers a run should have, from what learner and samplers waited for each other. Pure.

With a step of max(learn, work / n) seconds, n samplers are enough when the learner waits little, and too many when
they idle. Adding follows the learner's waits alone. Removing also asks what the learner would wait afterwards: one
sampler of two may idle a quarter of the time and still be needed, and removing it would have it added again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from configs.schema import AutoscaleSection


class StepWait(NamedTuple):
    """What one step spent waiting, as shares of its wall time in [0, 1]."""

    learner_wait_share: float
    """The learner waited for groups."""
    sampler_idle_share: float
    """Samplers had nothing to draw; mean over the samplers."""


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """The policy. It holds no state: the same waits give the same number."""

    section: AutoscaleSection

    def decide(self, waits: Sequence[StepWait], num_samplers: int) -> int:
        """The number of samplers to have now.

        Args:
            waits: of the steps since the number last changed, oldest first, all with `num_samplers` at work. The
                newest `interval_steps` are averaged; with fewer the number stays.
            num_samplers: at work now.

        Returns:
            Within [min_samplers, max_samplers], and at most `step_samplers` away unless that range demands more.
        """
        section = self.section
        lowest, highest = section.min_samplers, section.max_samplers
        here = min(max(num_samplers, lowest), highest)
        if here != num_samplers or len(waits) < section.interval_steps:
            return here
        recent = waits[-section.interval_steps :]
        wait = sum(one.learner_wait_share for one in recent) / len(recent)
        idle = sum(one.sampler_idle_share for one in recent) / len(recent)
        if wait > section.target_wait_ratio:
            return min(num_samplers + section.step_samplers, highest)
        fewer = max(num_samplers - section.step_samplers, lowest)
        if idle > section.target_wait_ratio and wait < section.target_wait_ratio / 2:
            if wait_with(fewer, num_samplers, idle) < section.target_wait_ratio / 2:
                return fewer
        return num_samplers


def wait_with(num_fewer: int, num_samplers: int, idle: float) -> float:
    """Share of a step that the learner would wait if `num_fewer` of `num_samplers` did the same work.

    The work that kept each of n samplers busy for (1 - idle) of a step keeps each of m busy for (1 - idle) * n / m of
    it; what exceeds the step is waited for.
    """
    busy = (1 - idle) * num_samplers / num_fewer
    return max(0.0, 1 - 1 / busy) if busy > 0 else 0.0


@dataclass
class Autoscaling:
    """The policy over a live run: collects the waits of steps that count."""

    policy: Autoscaler
    _waits: list[StepWait] = field(default_factory=list)
    _measured: int = 0
    """Samplers during those steps."""

    def observe(self, wait: StepWait, *, num_wanted: int, num_ready: int) -> int:
        """Take in one finished step.

        A step during which samplers were missing (still starting, lost, draining) says nothing about how many are
        needed and is left out; a number that somebody else changed starts a new average.

        Args:
            wait: of the step.
            num_wanted: samplers that the run should have.
            num_ready: of these, at work at the end of the step.

        Returns:
            The number to have from now on; `num_wanted` to leave it.
        """
        if num_wanted != self._measured:
            self._waits.clear()
            self._measured = num_wanted
        if num_ready != num_wanted:
            return num_wanted
        self._waits.append(wait)
        return self.policy.decide(self._waits, num_wanted)
