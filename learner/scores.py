"""Log-probability, entropy and self-certainty from logits: few passes over them, one copy kept for the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def score(
    logits: Tensor, targets: Tensor, want_entropy_gradient: bool = False, want_self_certainty: bool = False
) -> tuple[Tensor, ...]:
    """Score `targets` under softmax(`logits`).

    Args:
        logits: [N, V] float32.
        targets: [N]
        want_entropy_gradient: whether the entropies carry a gradient.
        want_self_certainty: whether to return it.

    Returns:
        [N] log-probabilities, [N] entropies in nats, and if wanted [N] self-certainty in nats, never with gradient.
    """
    logprobs, entropies, certainties = _Scores.apply(logits, targets, want_entropy_gradient, want_self_certainty)
    return (logprobs, entropies, certainties) if want_self_certainty else (logprobs, entropies)


class _Scores(torch.autograd.Function):
    """With p = softmax(z): d log p_t / dz = onehot(t) - p, and d H / dz = -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, entropy_gradient: bool, certainty: bool
    ) -> tuple[Tensor, ...]:
        log_p = torch.log_softmax(logits, dim=-1)
        logprobs = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        certainties = -log_p.mean(-1) - math.log(logits.shape[-1]) if certainty else logits.new_zeros(0)
        log_p.clamp_min_(torch.finfo(log_p.dtype).min)  # a logit of -inf: 0 * -inf must count 0
        entropies = -log_p.exp().mul_(log_p).sum(-1)
        ctx.save_for_backward(log_p, targets, entropies)
        ctx.mark_non_differentiable(*((certainties,) if entropy_gradient else (entropies, certainties)))
        ctx.entropy_gradient = entropy_gradient
        return logprobs, entropies, certainties

    @staticmethod
    def backward(ctx: Any, logprob_grad: Tensor, entropy_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        log_p, targets, entropies = ctx.saved_tensors
        grad = log_p.exp()
        if ctx.entropy_gradient:
            inner = (log_p + entropies.unsqueeze(-1)).mul_(entropy_grad.unsqueeze(-1)).add_(logprob_grad.unsqueeze(-1))
            grad.mul_(inner).neg_()
        else:
            grad.mul_(-logprob_grad.unsqueeze(-1))
        grad.scatter_add_(-1, targets.unsqueeze(-1), logprob_grad.unsqueeze(-1))
        return grad, None, None, None
