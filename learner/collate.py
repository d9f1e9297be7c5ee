"""From the rows of a micro-batch to the arrays of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import MicroBatch
from quorum.types import RolloutGroup


@dataclass(frozen=True, slots=True)
class Collated:
    """One micro-batch as arrays: its rows packed into one, and where their completion tokens are predicted."""

    input_ids: NDArray[np.int64]
    """[1, T] prompt and completion of every row, one after another"""
    lengths: tuple[int, ...]
    """[B] tokens of each row; they sum to T"""
    positions: NDArray[np.int64]
    """[N] index into T of the position that predicts each completion token, row after row"""
    targets: NDArray[np.int64]
    """[N] the completion tokens"""
    rollout_logprobs: NDArray[np.float32]
    """[N]"""
    rows: NDArray[np.int64]
    """[N] which row of the micro-batch each token belongs to"""

    def inputs(self, device: torch.device) -> tuple[Tensor, tuple[int, ...], Tensor, Tensor]:
        """Arguments of `Policy.forward` before the number of chunks."""
        ids, positions, targets = (
            torch.from_numpy(array).to(device) for array in (self.input_ids, self.positions, self.targets)
        )
        return ids, self.lengths, positions, targets


def collate(micro_batch: MicroBatch, groups: Sequence[RolloutGroup | None]) -> Collated:
    """Packed arrays of one micro-batch.

    Args:
        micro_batch: rows of the plan; empty gives a dummy of one token without targets.
        groups: the batch's groups by position; None where no row of this rank needs the group.
    """
    tokens, positions, targets, logprobs, owners = [], [], [], [], []
    start = 0
    for i, row in enumerate(micro_batch):
        group = groups[row.group]
        assert group is not None, f"group {row.group} of the batch was not handed to this rank"
        prompt, completion = group.prompt_token_ids, group.completions[row.completion]
        num_completion = len(completion.token_ids)
        tokens += [prompt, completion.token_ids]
        first = start + len(prompt) - 1
        positions.append(np.arange(first, first + num_completion))
        targets.append(completion.token_ids)
        logprobs.append(completion.rollout_logprobs)
        owners.append(np.full(num_completion, i))
        start += row.num_tokens
    return Collated(
        input_ids=_join(tokens or [np.zeros(1)], np.int64).reshape(1, -1),
        lengths=tuple(row.num_tokens for row in micro_batch) or (1,),
        positions=_join(positions, np.int64),
        targets=_join(targets, np.int64),
        rollout_logprobs=_join(logprobs, np.float32),
        rows=_join(owners, np.int64),
    )


def _join(parts: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)
