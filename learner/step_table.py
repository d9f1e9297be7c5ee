"""What every rank knows of all completions of a step: scalars, from which advantages and loss weights follow.

Equal on all ranks, so that nothing depends on how completions are split over ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.schema import LearnerSection, OverlongSection
from quorum.types import ScoreReceipt


@dataclass(frozen=True, slots=True)
class StepTable:
    """P groups, at most K completions each; shorter groups are filled up with untrained completions of no tokens."""

    group_ids: tuple[int, ...]
    """[P]"""
    rewards: NDArray[np.float64]
    """[P, K] after the penalty for overlong completions"""
    is_trained: NDArray[np.bool_]
    """[P, K]"""
    num_tokens: NDArray[np.int64]
    """[P, K] of each completion"""
    has_kl: NDArray[np.bool_]
    """[P] whether the KL penalty applies to the group"""
    weights: NDArray[np.float64]
    """[P] what the group's advantages are multiplied by, after `penalties`"""
    penalties: NDArray[np.float64]
    """[P] what is taken off every advantage of the group"""

    @classmethod
    def of(cls, receipts: Sequence[ScoreReceipt], overlong: OverlongSection, limit: int) -> StepTable:
        """Collect the receipts of a step.

        Args:
            receipts: [P] in group order.
            overlong: what befalls completions at the limit.
            limit: most tokens of a completion.
        """
        shape = (len(receipts), max((len(receipt.trained) for receipt in receipts), default=0))
        table = cls(
            group_ids=tuple(receipt.group_id for receipt in receipts),
            rewards=np.zeros(shape),
            is_trained=np.zeros(shape, dtype=np.bool_),
            num_tokens=np.zeros(shape, dtype=np.int64),
            has_kl=np.array([receipt.kl_mask for receipt in receipts], dtype=np.bool_),
            weights=np.array([receipt.weight for receipt in receipts], dtype=np.float64),
            penalties=np.array([receipt.penalty for receipt in receipts], dtype=np.float64),
        )
        for position, receipt in enumerate(receipts):
            own = slice(0, len(receipt.trained))
            tokens = np.asarray(receipt.completion_tokens, dtype=np.int64)
            is_left_out = np.asarray(receipt.truncated) & overlong.mask
            table.num_tokens[position, own] = tokens
            table.is_trained[position, own] = np.asarray(receipt.trained) & (tokens > 0) & ~is_left_out
            table.rewards[position, own] = np.asarray(receipt.rewards) - overlong_penalty(tokens, overlong, limit)
        return table

    def receipts_of(self, receipts: Sequence[ScoreReceipt], positions: Sequence[int]) -> list[ScoreReceipt]:
        """The step's receipts with only the trained completions of the groups at `positions` marked as trained."""
        chosen = set(positions)
        return [
            replace(receipt, trained=tuple(map(bool, self.is_trained[i, : len(receipt.trained)] & (i in chosen))))
            for i, receipt in enumerate(receipts)
        ]

    @property
    def is_weighed(self) -> bool:
        """Whether any group's advantages are changed by a weight or a penalty."""
        return bool((self.weights != 1.0).any() or self.penalties.any())

    def count(self, positions: Sequence[int]) -> tuple[int, int]:
        """(tokens, completions) trained on in the groups at `positions`."""
        is_trained = self.is_trained[list(positions)]
        return int(self.num_tokens[list(positions)][is_trained].sum()), int(is_trained.sum())

    def trained_groups(self) -> list[int]:
        """Positions of the groups with anything to train on."""
        return [int(position) for position in np.flatnonzero(self.is_trained.any(axis=1))]


def overlong_penalty(num_tokens: NDArray[np.int64], section: OverlongSection, limit: int) -> NDArray[np.float64]:
    """What is taken off the reward of completions near the limit (DAPO, arXiv 2503.14476, equation 13).

    0 up to `limit - penalty_tokens` tokens, then rising linearly to `penalty` at the limit.

    Example:
        >>> section = OverlongSection(penalty_tokens=20, penalty=1.0)
        >>> overlong_penalty(np.array([50, 80, 90, 100]), section, 100).tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    if not section.penalty_tokens:
        return np.zeros(len(num_tokens))
    over = num_tokens - (limit - section.penalty_tokens)
    return section.penalty * np.clip(over / section.penalty_tokens, 0.0, 1.0)


def token_weights(
    table: StepTable, section: LearnerSection, limit: int, *, num_tokens: int, num_completions: int
) -> NDArray[np.float64]:
    """Weight of each completion's tokens in the loss of an update: the loss is the weighted sum of token losses.

    Args:
        table: of the step.
        section: `aggregation` says which mean it is.
        limit: constant length where `aggregation_length` is None.
        num_tokens: trained tokens of the update, over all ranks.
        num_completions: trained completions of the update, over all ranks.

    Returns:
        [P, K]; meaningless for completions outside the update.
    """
    if section.aggregation == "token_mean":
        return np.full(table.num_tokens.shape, 1.0 / num_tokens)
    if section.aggregation == "sequence_mean":
        return 1.0 / (num_completions * np.maximum(table.num_tokens, 1))
    return np.full(table.num_tokens.shape, 1.0 / (num_completions * (section.aggregation_length or limit)))
