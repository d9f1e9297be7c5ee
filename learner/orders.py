"""What the driver tells the ranks in one step, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.schema import KLSection
from learner.batch import MicroBatch, Plan
from quorum.types import TrainingBatch


def needs_base_model(section: KLSection) -> bool:
    """Whether the base model is loaded beside the policy."""
    return section.coefficient > 0 or section.measure


@dataclass(frozen=True, slots=True)
class UpdateOrders:
    """What one rank does in one step."""

    step: int
    micro_batches: tuple[MicroBatch, ...]
    row_tokens: tuple[int, ...]
    """Per micro-batch the most tokens, without padding, that any rank has in it: sets the number of logit chunks."""
    completions: tuple[int, ...]
    """[P] k of every group of the batch"""
    num_tokens: int
    """Trained completion tokens of all ranks: the denominator of the loss."""
    groups: Mapping[int, Any] = field(default_factory=dict)
    """References of the scored groups that this rank needs, by position in the batch."""


@dataclass(frozen=True, slots=True)
class UpdateSums:
    """What one step came to over all ranks; equal on each."""

    loss: float
    """Token mean over the batch."""
    grad_norm: float
    """Before clipping."""
    entropy: float
    """Sum over trained tokens, nats."""
    gap: float
    """Sum over trained tokens of |learner - sampler| log-probability, nats."""
    kl: float
    """Sum over trained tokens of the KL to the base model, nats; 0 where it is not computed."""
    num_tokens: int
    """Trained completion tokens."""


def make_orders(batch: TrainingBatch, plan: Plan) -> list[UpdateOrders]:
    """Split a plan into one rank's orders each, with references only to the groups that the rank needs."""
    row_tokens = tuple(
        max(sum(row.num_tokens for row in micro_batch) for micro_batch in across)
        for across in zip(*plan.ranks, strict=True)
    )
    orders = []
    for micro_batches in plan.ranks:
        needed = sorted({row.group for micro_batch in micro_batches for row in micro_batch})
        orders.append(
            UpdateOrders(
                step=batch.step,
                micro_batches=micro_batches,
                row_tokens=row_tokens,
                completions=tuple(len(receipt.trained) for receipt in batch.receipts),
                num_tokens=batch.num_tokens,
                groups={position: _reference(batch.groups[position]) for position in needed},
            )
        )
    return orders


def _reference(group: object) -> Any:
    import ray

    return group if isinstance(group, ray.ObjectRef) else ray.put(group)
