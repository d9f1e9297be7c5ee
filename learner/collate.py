"""From the rows of a micro-batch to the arrays of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import MicroBatch, Row
from quorum.types import RolloutGroup


@dataclass(frozen=True, slots=True)
class Collated:
    """One micro-batch as arrays: its rows packed into one, and where their completion tokens are predicted."""

    input_ids: NDArray[np.int64]
    """[1, T] prompt and completion of every row, one after another; shared prompts first, then completions alone"""
    lengths: tuple[int, ...]
    """[S] tokens of each sequence: shared prompts, then rows; they sum to T"""
    positions: NDArray[np.int64]
    """[N] index into T of the position that predicts each completion token, row after row; the end of a shared prompt
    stands there once for each of its completions"""
    targets: NDArray[np.int64]
    """[N] the completion tokens"""
    rollout_logprobs: NDArray[np.float32]
    """[N]"""
    rows: NDArray[np.int64]
    """[N] which row of the micro-batch each token belongs to"""
    continues: tuple[int, ...] = ()
    """[S] index of the prompt that each sequence continues, -1: none. Empty where no prompt is shared."""

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
    shared = _shared_prompts(micro_batch, groups)
    tokens, positions, targets, logprobs, owners = list(shared.values()), [], [], [], []
    place = {group: index for index, group in enumerate(shared)}
    lengths, continues = [len(prompt) for prompt in tokens], [-1] * len(tokens)
    ends = dict(zip(shared, np.cumsum(lengths), strict=True))
    start = sum(lengths)
    for i, row in enumerate(micro_batch):
        group = _group_of(row, groups)
        completion = group.completions[row.completion]
        num_completion = len(completion.token_ids)
        if not row.is_shared:
            tokens.append(group.prompt_token_ids)
        tokens.append(completion.token_ids)
        lengths.append(row.num_tokens - row.prompt_tokens * row.is_shared)
        continues.append(place[row.group] if row.is_shared else -1)
        first = start + lengths[-1] - num_completion - 1
        own = np.arange(first, first + num_completion)
        if row.is_shared:
            own[:1] = ends[row.group] - 1
        positions.append(own)
        targets.append(completion.token_ids)
        logprobs.append(completion.rollout_logprobs)
        owners.append(np.full(num_completion, i))
        start += lengths[-1]
    return Collated(
        input_ids=_join(tokens or [np.zeros(1)], np.int64).reshape(1, -1),
        lengths=tuple(lengths) or (1,),
        positions=_join(positions, np.int64),
        targets=_join(targets, np.int64),
        rollout_logprobs=_join(logprobs, np.float32),
        rows=_join(owners, np.int64),
        continues=tuple(continues) if shared else (),
    )


def _group_of(row: Row, groups: Sequence[RolloutGroup | None]) -> RolloutGroup:
    group = groups[row.group]
    assert group is not None, f"group {row.group} of the batch was not handed to this rank"
    return group


def _shared_prompts(micro_batch: MicroBatch, groups: Sequence[RolloutGroup | None]) -> dict[int, NDArray[np.int32]]:
    """Token ids of each prompt that rows share, by group; those of the same length side by side."""
    rows = sorted((row for row in micro_batch if row.is_shared), key=lambda row: (-row.prompt_tokens, row.group))
    return {row.group: _group_of(row, groups).prompt_token_ids for row in rows}


def _join(parts: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)
