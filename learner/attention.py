"""Causal attention over one row of several packed sequences: no token sees another sequence, and nothing is padded.

Sequences of equal length that lie side by side become one batch by a change of view, so that a row sorted by length
needs one call of the kernel per distinct length. On CUDA in half precision one variable-length kernel takes them all.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

_VARLEN_OPTIONS = frozenset({"scale", "window_size", "enable_gqa"})

NAME = "quorum_packed"
"""Of the attention function among those of transformers."""

KINDS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose attention `packed_attention` computes."""


@dataclass(frozen=True)
class Packing:
    """Where the sequences of a packed row lie. Handed through the model's keyword arguments to every layer.

    That way activation checkpointing, which runs layers again after the forward pass is over, still has it.
    """

    lengths: tuple[int, ...]
    """[S] tokens of each sequence, in the order of the row; equal ones side by side are computed together."""
    device: torch.device
    positions: Tensor = field(init=False)
    """[1, T] position of every token in its sequence"""
    bounds: Tensor = field(init=False)
    """[S + 1] int32 first token of every sequence, and T"""

    def __post_init__(self) -> None:
        positions = torch.cat([torch.arange(length) for length in self.lengths])
        bounds = torch.tensor([0, *itertools.accumulate(self.lengths)], dtype=torch.int32)
        object.__setattr__(self, "positions", positions.unsqueeze(0).to(self.device))
        object.__setattr__(self, "bounds", bounds.to(self.device))

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Number and length of neighbouring sequences of equal length."""
        return [(len(list(run)), length) for length, run in itertools.groupby(self.lengths)]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function in the sense of transformers' AttentionInterface.

    Args:
        module: the attention layer; unused.
        query: [1, heads, T, head_dim]
        key: [1, key_heads, T, head_dim], where key_heads divides heads; so has `value`.
        value: see `key`.
        attention_mask: must be None: `packing` says who sees whom.
        packing: the row's sequences; must be there.
        scaling: factor of the scores; None: head_dim ** -0.5.
        sliding_window: tokens that a token sees, itself included; None or 0: all before it.
        softcap: scores are bent to softcap * tanh(score / softcap).
        **kwargs: what else the model hands over.

    Returns:
        ([1, T, heads, head_dim], None)

    Raises:
        TypeError: the layer wants something that is not computed here.
    """
    if packing is None:
        raise TypeError("a model under packed attention runs through learner.body, which tells it the packing")
    unknown = [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]
    if attention_mask is not None or unknown:
        raise TypeError(f"packed attention computes neither masks nor {unknown}")
    packed = [states.transpose(1, 2) for states in (query, key, value)]
    if _takes_variable_lengths(query, softcap):
        window = (sliding_window - 1, 0) if sliding_window else (-1, 0)
        longest, bounds = max(packing.lengths), packing.bounds
        rows = [states.squeeze(0) for states in packed]
        gqa = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
        out = varlen_attn(*rows, bounds, bounds, longest, longest, scale=scaling, window_size=window, **gqa)
        return out.unsqueeze(0), None
    sizes = [count * length for count, length in packing.runs]
    parts = zip(packing.runs, *(states.split(sizes, dim=1) for states in packed), strict=True)
    done = [_equal_lengths(*run, *states, scaling, sliding_window or 0, softcap) for run, *states in parts]
    return torch.cat(done, dim=1), None


def _takes_variable_lengths(query: Tensor, softcap: float | None) -> bool:
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and is_half and softcap is None and query.shape[-1] <= 256 and has_options(varlen_attn)


@functools.cache
def has_options(kernel: Any) -> bool:
    """Whether a variable-length kernel takes what is asked of it here: that of torch 2.10 knows none of it."""
    return kernel is not None and set(inspect.signature(kernel).parameters) >= _VARLEN_OPTIONS


def _equal_lengths(
    count: int,
    length: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int,
    softcap: float | None,
) -> Tensor:
    """[1, count * length, heads, head_dim] of `count` sequences of equal length, given in that layout too."""
    q, k, v = (states.squeeze(0).unflatten(0, (count, length)).transpose(1, 2) for states in (query, key, value))
    mask = None
    if softcap is not None or 0 < window < length:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        if 0 < window < length:
            mask = mask.triu(1 - window)
    if softcap is None:
        is_grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=is_grouped
        )
    else:
        k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for states in (k, v))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, float("-inf"))
        out = scores.float().softmax(-1).to(v.dtype) @ v
    return out.transpose(1, 2).reshape(1, count * length, *out.shape[1::2])
