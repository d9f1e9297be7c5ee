"""Fewer passes over memory for what a transformer computes between its matrix products.

Without a compiler, autograd spends a pass over the activations on every product and sum of RMSNorm and of the rotary
embedding, and keeps most of them. The two functions here have their gradients written by hand, for float32. In half
precision on a GPU torch has a fused RMSNorm. They replace a model's own only where a trial gives the same results.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

ROTARY = "apply_rotary_pos_emb"
"""Name under which transformers' models call the rotary embedding."""
_TOLERANCE = 1e-5
_HALF = (torch.bfloat16, torch.float16)
_HALF_TOLERANCE = 2e-2
"""Models round once more on the way than the fused norm does."""


def speed_up(model: nn.Module) -> None:
    """Replace RMSNorms, and rotary embeddings of a float32 model, that are as in Llama and its kin.

    A module keeps its class, parameters and hooks; inputs in other types go its own way. The rotary embedding is
    replaced in the module of transformers that defines the model.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and _is_plain_norm(module):
            module.forward = types.MethodType(_norm_forward, module)
        scope = getattr(type(module).forward, "__globals__", {})
        own = scope.get(ROTARY)
        if own is not None and not isinstance(own, _Rotate) and _is_plain_rotary(own):
            scope[ROTARY] = _Rotate(own)


class RMSNorm(torch.autograd.Function):
    """y = x * r * w with r = (mean(x^2) + eps)^-1/2 (arXiv 1910.07467); keeps x and r.

    With u = g * w: dx = r * (u - x * r^2 * mean(u * x)), dw = sum over tokens of g * x * r.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # which would take the product for a layer's, in bfloat16
            r = torch.linalg.vecdot(x, x).unsqueeze(-1).div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        inner = grad * weight
        with torch.autocast(x.device.type, enabled=False):
            mean = torch.linalg.vecdot(inner, x).unsqueeze(-1).mul_(r * r).div_(x.shape[-1])
            d_weight = (grad * x).flatten(0, -2).T @ r.flatten()
        return inner.addcmul_(x, mean, value=-1).mul_(r), d_weight, None


class Rotary(torch.autograd.Function):
    """y = x * cos + (-x2, x1) * sin, with x = (x1, x2) in halves (arXiv 2104.09864)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        y = x * cos
        y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        y[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = grad.shape[-1] // 2
        dx = grad * cos
        dx[..., :half].addcmul_(grad[..., half:], sin[..., half:])
        dx[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        return dx, None, None


class _Rotate:
    """Stands in for a model's rotary embedding; what is not float32 goes to the model's own."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        states = (q, k, cos, sin)
        is_whole = q.shape[-1] == k.shape[-1] == cos.shape[-1]
        if not is_whole or cos.requires_grad or any(t.dtype != torch.float32 for t in states):
            return self.own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    if _is_for_fused_norm(hidden_states, self.weight):
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
    if hidden_states.dtype != torch.float32 or self.weight.dtype != torch.float32:
        return type(self).forward(self, hidden_states)
    return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


def _is_for_fused_norm(hidden_states: Tensor, weight: Tensor) -> bool:
    """Whether torch has one kernel for it; elsewhere its rms_norm is made of as many as a model's own."""
    return hidden_states.is_cuda and hidden_states.dtype == weight.dtype and weight.dtype in _HALF


def _is_plain_norm(module: Any) -> bool:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(eps, float):
        return False
    if weight.dtype not in (torch.float32, *_HALF) or "forward" in vars(module):
        return False
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device, dtype=weight.dtype).view(2, -1)
    with torch.no_grad():
        if weight.dtype in _HALF:
            ours = nn.functional.rms_norm(x, weight.shape, weight, eps)
            return torch.allclose(ours, module(x), rtol=_HALF_TOLERANCE, atol=_HALF_TOLERANCE)
        return torch.allclose(RMSNorm.apply(x, weight, eps), module(x), rtol=_TOLERANCE, atol=_TOLERANCE)


def _is_plain_rotary(own: Any) -> bool:
    q, k = torch.linspace(-2, 3, 48).view(1, 2, 3, 8), torch.linspace(1, -1, 24).view(1, 1, 3, 8)
    angles = torch.linspace(0, 4, 24).view(1, 3, 8)
    try:
        wanted = own(q, k, angles.cos(), angles.sin())
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False  # of another form, as for images
    got = _Rotate(own)(q, k, angles.cos(), angles.sin())
    return all(torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE) for a, b in zip(got, wanted, strict=True))
