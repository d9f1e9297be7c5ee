"""What the driver tells the ranks in one step, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs.schema import KLSection, RunConfig
from learner.batch import MicroBatch, Plan, computed_tokens, micro_batch_tokens, plan_micro_batches
from learner.step_table import StepTable
from quorum.types import TrainingBatch


def needs_reference(section: KLSection) -> bool:
    """Whether a reference model stands beside the policy."""
    return section.coefficient > 0 or section.measure


@dataclass(frozen=True, slots=True)
class UpdateShare:
    """One rank's part of one update."""

    micro_batches: tuple[MicroBatch, ...]
    row_tokens: tuple[int, ...]
    """Per micro-batch the most tokens that any rank has in it: sets the number of logit chunks."""
    positions: tuple[int, ...]
    """Of the update's groups in the batch, over all ranks."""
    num_tokens: int
    """Trained completion tokens of the update, over all ranks."""
    num_completions: int
    """Trained completions of the update, over all ranks."""


@dataclass(frozen=True, slots=True)
class StepFactors:
    """What a step multiplies two of its settings with."""

    learning_rate: float = 1.0
    kl: float = 1.0


@dataclass(frozen=True, slots=True)
class StepOrders:
    """What one rank does in one step."""

    step: int
    table: StepTable
    updates: tuple[UpdateShare, ...]
    """Of one epoch."""
    num_epochs: int = 1
    factors: StepFactors = StepFactors()
    groups: Mapping[int, Any] = field(default_factory=dict)
    """References of the scored groups that this rank needs, by position in the batch."""


@dataclass(frozen=True, slots=True)
class StepSums:
    """What one step came to over all ranks; equal on each."""

    num_updates: int
    """Optimizer calls."""
    num_skipped: int
    """Updates left out because something was not finite."""
    num_tokens: int
    """Trained completion tokens over all updates."""
    loss: float
    """Mean over the updates."""
    grad_norm: float
    """Before clipping; mean over the updates."""
    learning_rate: float
    """Of the last update."""
    kl_coefficient: float
    """Used in this step."""
    sums: Mapping[str, float]
    """Over the trained tokens of all updates, by name; see `learner.sums.SUMS`."""

    def mean(self, name: str) -> float:
        """Per trained token."""
        return self.sums[name] / max(1, self.num_tokens)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step as the driver planned it."""

    plans: tuple[Plan, ...]
    """One per update of an epoch."""
    orders: tuple[StepOrders, ...]
    """One per rank."""


def plan_step(
    batch: TrainingBatch, config: RunConfig, device: str = "cpu", *, may_share: bool = True
) -> StepPlan | None:
    """Split a step's batch into updates, and each update over ranks and micro-batches.

    Groups with anything to train on are divided evenly between the updates of an epoch, in group order.

    Args:
        batch: of the step.
        config: of the run.
        device: "cpu" or "cuda"; see `learner.batch.micro_batch_tokens`.
        may_share: whether the model can compute a prompt once for several completions; ranks that share rows cannot.

    Returns:
        The plan, without references to groups yet; None where no completion is trained on.
    """
    section, limit = config.learner, config.rollout.max_completion_tokens
    table = StepTable.of(batch.receipts, section.overlong, limit)
    trained = table.trained_groups()
    if not trained:
        return None
    parts = np.array_split(trained, section.updates_per_step // section.epochs_per_step)
    max_tokens = micro_batch_tokens(section, device)
    shares: list[list[UpdateShare]] = [[] for _ in range(section.num_ranks)]
    plans = []
    for part in parts:
        if not len(part):
            continue
        positions = tuple(map(int, part))
        receipts = table.receipts_of(batch.receipts, positions)
        num_rows = section.num_ranks // section.sequence_parallel_size
        may_share = may_share and section.sequence_parallel_size == 1
        plan = plan_micro_batches(receipts, num_rows, max_tokens, may_share=may_share)
        plans.append(plan)
        num_tokens, num_completions = table.count(positions)
        for rank in range(section.num_ranks):
            micro_batches = plan.ranks[rank // section.sequence_parallel_size]
            share = UpdateShare(micro_batches, _row_tokens(plan), positions, num_tokens, num_completions)
            shares[rank].append(share)
    orders = (StepOrders(batch.step, table, tuple(own), section.epochs_per_step) for own in shares)
    return StepPlan(tuple(plans), tuple(orders))


def _row_tokens(plan: Plan) -> tuple[int, ...]:
    across = zip(*plan.ranks, strict=True)
    return tuple(max(computed_tokens(part) for part in parts) for parts in across)


def needed_groups(orders: StepOrders) -> list[int]:
    """Positions of the groups that a rank has rows of."""
    rows = (row for share in orders.updates for micro_batch in share.micro_batches for row in micro_batch)
    return sorted({row.group for row in rows})
