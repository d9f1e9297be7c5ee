"""What every policy loss takes and gives. Losses import torch when called: the driver reads their options only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before exp: exp(20) is 5e8, far beyond any clip range, and finite."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """The completion tokens of one micro-batch, whole completions after one another; N of them."""

    logprobs: Tensor
    """[N] float32 under the policy now, with gradient."""
    old_logprobs: Tensor
    """[N] before the step's first update; equal to `logprobs` where there is one update per step."""
    advantages: Tensor
    """[N]"""
    rows: Tensor
    """[N] int64: which completion each token belongs to."""
    num_rows: int

    def ratio(self) -> Tensor:
        """[N] probability now over probability then, with gradient."""
        return (self.logprobs - self.old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

    def row_mean(self, values: Tensor) -> Tensor:
        """[N] each token's `values` [N] averaged over its completion."""
        zeros = values.new_zeros(self.num_rows)
        total = zeros.index_add(0, self.rows, values)
        count = zeros.index_add(0, self.rows, values.new_ones(len(values)))
        return (total / count.clamp_min(1))[self.rows]


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """What a policy loss makes of them."""

    losses: Tensor
    """[N] with gradient; to be minimised."""
    is_clipped: Tensor
    """[N] bool: tokens without gradient because their ratio left its range."""
