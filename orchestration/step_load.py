"""How well a step used its machines: idle learner, bubbles, MFU, and what each sampler did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from data.model_files import check_model_dir
from orchestration.buffer import Slot
from orchestration.plan import ResourcePlan
from orchestration.vote_phase import StepVote
from orchestration.watch.sinks.sink import StepFacts
from quorum.errors import DataError
from quorum.types import Receipt
from rollout.pool import SamplerPool

PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A100-40G": 312e12,
    "A100-80G": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
}
"""Dense bf16 FLOP/s of one GPU, by Ray's name of the accelerator."""
FLOPS_PER_PARAMETER = 6
"""Of a model for one trained token: 2 forward, 4 backward."""
ACCELERATOR = "accelerator_type:"
"""Before the name in a Ray node's resources."""


@dataclass(frozen=True, slots=True)
class LearnerPeak:
    """What MFU is measured against."""

    num_parameters: int
    peak_flops: float
    """Of all ranks' GPUs together."""
    num_epochs: int = 1

    @classmethod
    def of(cls, config: RunConfig, plan: ResourcePlan, resources: Iterable[str]) -> LearnerPeak | None:
        """The peak of a run's ranks; None where it is not known.

        Args:
            config: of the run.
            plan: says how many ranks there are, and on what.
            resources: names of the cluster's resources.
        """
        kinds = {name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)}
        if plan.device != "cuda" or len(kinds) != 1 or config.learner.lora.rank:
            return None
        peak = PEAK_FLOPS.get(kinds.pop())
        try:
            num_parameters = check_model_dir(config.model).num_parameters
        except DataError:
            return None
        if peak is None or num_parameters is None:
            return None
        return cls(num_parameters, peak * plan.num_ranks, config.learner.epochs_per_step)

    def share(self, num_tokens: int, seconds: float) -> float:
        """MFU of a step that trained on so many prompt and completion tokens in `seconds`."""
        return FLOPS_PER_PARAMETER * self.num_parameters * num_tokens * self.num_epochs / (seconds * self.peak_flops)


@dataclass
class StepLoad:
    """Measures one step after the other."""

    config: RunConfig
    plan: ResourcePlan
    _peak: list[LearnerPeak | None] = field(default_factory=list)
    """Empty until it was looked up."""

    def metrics(self, vote: StepVote, values: Mapping[str, float]) -> dict[str, float]:
        """learn/idle_share, learn/mfu_share and time/bubble_share, each where it can be measured.

        Args:
            vote: the step's groups.
            values: its metrics so far: the times, rollout/* and learn/*.
        """
        if not self.plan.num_ranks:
            return {}
        seconds = values["time/learn_seconds"]
        idle = max(0.0, 1 - (seconds + values["time/sync_seconds"]) / values["time/step_seconds"])
        found = {"learn/idle_share": idle}
        sampler_idle, num_samplers = values.get("rollout/idle_share"), values.get("rollout/num_samplers", 0.0)
        if sampler_idle is not None and num_samplers and not self.plan.colocate:
            ranks = self.plan.num_ranks
            found["time/bubble_share"] = (num_samplers * sampler_idle + ranks * idle) / (num_samplers + ranks)
        peak = self._learner_peak()
        if peak is not None and values.get("learn/num_updates"):
            found["learn/mfu_share"] = peak.share(trained_tokens(vote), seconds)
        return found

    def facts(
        self, step: int, slots: Sequence[Slot], pool: SamplerPool | None, seconds: float, transfer: float | None
    ) -> StepFacts:
        """What the step has several values of.

        Args:
            step: the step.
            slots: its groups.
            pool: of the policy; None in a run without samplers.
            seconds: of generating.
            transfer: seconds of the weight transfer, None without one.
        """
        samplers = [] if pool is None else pool.samplers
        rates = tokens_per_second([slot.receipt for slot in slots if slot.receipt is not None], seconds)
        running = {sampler.sampler_id: len(sampler.calls) for sampler in samplers}
        waiting = 0 if pool is None else pool.num_unfinished - sum(running.values())
        return StepFacts(
            step=step,
            tokens_per_second={name: rates.get(name, 0.0) for name in running},
            devices={sampler.sampler_id: sampler.settings.device for sampler in samplers},
            queue_depth=waiting,
            running_groups=running,
            ages=[slot.age for slot in slots],
            transfer_seconds=transfer,
        )

    def _learner_peak(self) -> LearnerPeak | None:
        if not self._peak:
            self._peak.append(LearnerPeak.of(self.config, self.plan, _resources(self.plan)))
        return self._peak[0]


def trained_tokens(vote: StepVote) -> int:
    """Prompt and completion tokens of the completions trained on; a prompt counts for each, computed once or not."""
    total = 0
    for slot, _, _, receipt, _ in vote.groups():
        if receipt is not None and slot.receipt is not None:
            lengths = [
                n for n, is_trained in zip(receipt.completion_tokens, receipt.trained, strict=True) if is_trained
            ]
            total += sum(lengths) + len(lengths) * slot.receipt.num_prompt_tokens
    return total


def tokens_per_second(receipts: Iterable[Receipt], seconds: float) -> dict[str, float]:
    """Completion tokens per second by sampler."""
    tokens: Counter[str] = Counter()
    for receipt in receipts:
        tokens[receipt.sampler_id] += receipt.num_tokens
    return {name: count / seconds for name, count in tokens.items()} if seconds > 0 else {}


def _resources(plan: ResourcePlan) -> dict[str, Any]:
    """Of the cluster; nothing is asked where there are no GPUs."""
    if plan.device != "cuda":
        return {}
    import ray

    found: dict[str, Any] = ray.cluster_resources()
    return found
