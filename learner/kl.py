"""KL to a reference model: estimators per token, and the coefficient that adapts."""

from __future__ import annotations

from torch import Tensor

from configs.schema import KLSection

KL_CLAMP = 10.0
MAX_ERROR = 0.2
"""An adaptive coefficient answers to relative errors of at most this size (arXiv 1909.08593, section 2.2)."""


def kl_per_token(reference: Tensor, policy: Tensor, estimator: str) -> Tensor:
    """Estimate KL(policy || reference) from log-probabilities of sampled tokens (Schulman, "Approximating KL").

    Args:
        reference: [N] log-probabilities under the reference model.
        policy: [N] under the policy.
        estimator: "k1" (-d), "k2" (d^2 / 2) or "k3" (exp(d) - d - 1), with d = reference - policy in [-10, 10].
    """
    d = (reference - policy).clamp(-KL_CLAMP, KL_CLAMP)
    if estimator == "k1":
        return -d
    return d * d / 2 if estimator == "k2" else d.expm1() - d


class KLCoefficient:
    """Weight of the penalty: fixed, or steered towards a target (arXiv 1909.08593, section 2.2)."""

    def __init__(self, section: KLSection) -> None:
        self._target, self._horizon = section.target, section.horizon
        self.value = section.coefficient
        """Part of the checkpoint."""

    def see(self, kl: float, num_completions: int) -> None:
        """Adapt to what a step measured.

        Args:
            kl: mean per token, nats.
            num_completions: completions it was measured on.
        """
        if self._target is not None:
            error = min(max(kl / self._target - 1, -MAX_ERROR), MAX_ERROR)
            self.value *= 1 + error * num_completions / self._horizon
