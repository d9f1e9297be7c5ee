"""Forward passes over a step's completions before its first update: what advantages and ratios are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from learner.batch import MicroBatch
from learner.collate import Collated, collate
from learner.orders import StepOrders, UpdateShare
from quorum.types import RolloutGroup

if TYPE_CHECKING:
    from learner.forward import Forward

RowKey = tuple[int, int]
"""(position of the group in the batch, index of the completion)"""
TokenArrays = dict[RowKey, NDArray[np.float32]]
"""[T] per completion of this rank."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What was computed under the policy before the step; empty where nothing needs it."""

    policy: TokenArrays = field(default_factory=dict)
    """Log-probabilities under the policy."""
    reference: TokenArrays = field(default_factory=dict)
    """Log-probabilities under the reference model."""
    values: TokenArrays = field(default_factory=dict)
    """The critic's values."""


def run_passes(
    orders: StepOrders,
    groups: Sequence[RolloutGroup | None],
    forwards: Mapping[str, Forward],
    on_progress: Callable[[str], None],
) -> Passes:
    """Run every forward pass named in `forwards` ("policy", "reference", "values") over this rank's rows once.

    A collective under ZeRO-3.
    """
    passes = Passes()
    for share in orders.updates if forwards else ():
        for micro_batch, row_tokens in zip(share.micro_batches, share.row_tokens, strict=True):
            batch = collate(micro_batch, groups)
            for name, forward in forwards.items():
                with torch.no_grad():
                    values = forward(batch, row_tokens)[0]
                getattr(passes, name).update(split(micro_batch, batch, values.float().cpu().numpy()))
            on_progress("pass before the update")
    return passes


def rollout_logprobs(share: UpdateShare, groups: Sequence[RolloutGroup | None]) -> TokenArrays:
    """What the samplers reported, of this rank's completions in one update."""
    found: TokenArrays = {}
    for row in (row for micro_batch in share.micro_batches for row in micro_batch):
        group = groups[row.group]
        assert group is not None
        found[row.group, row.completion] = group.completions[row.completion].rollout_logprobs
    return found


def split(micro_batch: MicroBatch, batch: Collated, values: NDArray[np.float32]) -> TokenArrays:
    """[N] values of a micro-batch's completion tokens by completion."""
    if not micro_batch:
        return {}
    ends = np.cumsum(np.bincount(batch.rows, minlength=len(micro_batch)))
    parts = np.split(values, ends[:-1])
    return {(row.group, row.completion): part for row, part in zip(micro_batch, parts, strict=True)}


def joined(micro_batch: MicroBatch, arrays: Mapping[RowKey, NDArray]) -> torch.Tensor:
    """[N] float32 of a micro-batch's completion tokens, row after row."""
    parts: Iterable[NDArray] = (arrays[row.group, row.completion] for row in micro_batch)
    return torch.from_numpy(np.concatenate([np.zeros(0), *parts]).astype(np.float32))
