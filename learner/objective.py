"""The loss of one micro-batch: policy loss, importance weights, KL, entropy, and tokens held back.

Every term is a sum of token losses times weights that were worked out for the whole update, so that neither the split
over ranks nor the one into micro-batches changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import LearnerSection
from learner.importance import importance_weights
from learner.kl import kl_per_token
from learner.losses.ratio import LossInputs
from learner.registry import LOSSES


@dataclass(frozen=True, slots=True)
class MicroBatchTokens:
    """The completion tokens of one micro-batch; N of them."""

    logprobs: Tensor
    """[N] with gradient"""
    entropies: Tensor
    """[N] with gradient where the entropy has a coefficient"""
    old_logprobs: Tensor
    """[N]"""
    rollout_logprobs: Tensor
    """[N]"""
    advantages: Tensor
    """[N]"""
    weights: Tensor
    """[N] of each token in the loss"""
    rows: Tensor
    """[N]"""
    num_rows: int
    reference: Tensor | None = None
    """[N] log-probabilities under the reference model, where the loss or a metric needs them."""
    has_kl: Tensor | None = None
    """[N] float: 1 where the KL penalty applies."""
    is_held: Tensor | None = None
    """[N] bool: chosen by covariance."""


class Objective:
    """What the learner minimises."""

    def __init__(self, section: LearnerSection) -> None:
        entry = LOSSES[section.loss.name]
        self.section, self._policy_loss = section, entry.target
        self._options = entry.options.model_validate(section.loss.options)

    def __call__(self, tokens: MicroBatchTokens, kl_coefficient: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss.

        Returns:
            ([N] weighted token losses with gradient, which sum up to that share; named sums, see `learner.sums.SUMS`)
        """
        section = self.section
        inputs = LossInputs(tokens.logprobs, tokens.old_logprobs, tokens.advantages, tokens.rows, tokens.num_rows)
        policy = self._policy_loss(inputs, self._options)
        losses, sums = policy.losses, {"clipped": policy.is_clipped}
        if tokens.is_held is not None:
            sums["held"] = tokens.is_held
            if section.covariance.mode == "clip":
                losses = torch.where(tokens.is_held, torch.zeros_like(losses), losses)
        if section.importance.mode != "off":
            before = tokens.old_logprobs
            weights = importance_weights(
                before, tokens.rollout_logprobs, tokens.rows, tokens.num_rows, section.importance
            )
            losses = losses * weights
            sums |= {"importance": weights, "masked": weights == 0}
        if tokens.is_held is not None and section.covariance.mode == "kl":
            distance = (tokens.logprobs - tokens.old_logprobs).abs()
            losses = losses + section.covariance.coefficient * distance * tokens.is_held
        if tokens.reference is not None:
            kl = kl_per_token(tokens.reference, tokens.logprobs, section.kl.estimator)
            sums["kl"] = kl.detach()
            if section.kl.place == "loss" and kl_coefficient:
                losses = losses + kl_coefficient * kl * tokens.has_kl
        if section.entropy_coefficient:
            losses = losses - section.entropy_coefficient * tokens.entropies
        sums["entropy"] = tokens.entropies.detach()
        sums["gap"] = (tokens.logprobs.detach() - tokens.rollout_logprobs).abs()
        return losses * tokens.weights, {name: values.double().sum() for name, values in sums.items()}
