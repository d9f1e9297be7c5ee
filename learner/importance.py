"""Weights that correct for samplers whose log-probabilities are not the learner's (truncated importance sampling)."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.schema import ImportanceSection
from learner.losses.ratio import MAX_LOG_RATIO


def importance_weights(
    learner: Tensor, sampler: Tensor, rows: Tensor, num_rows: int, section: ImportanceSection
) -> Tensor:
    """Weight of each token's policy loss: learner / sampler probability, bounded. Carries no gradient.

    Args:
        learner: [N] log-probabilities under the learner's policy before the update.
        sampler: [N] as the sampler reported them.
        rows: [N] which completion each token belongs to.
        num_rows: completions.
        section: how weights are bounded, and whether a completion has one or each token its own.

    Returns:
        [N]; 0 for tokens that are masked.
    """
    difference = (learner - sampler).detach()
    if section.level == "sequence":
        difference = difference.new_zeros(num_rows).index_add(0, rows, difference)[rows]
    weights = torch.exp(difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    if section.mode == "truncate":
        return weights.clamp_max(section.high)
    is_inside = (weights >= section.low) & (weights <= section.high)
    return torch.where(is_inside, weights, torch.zeros_like(weights))
