"""Causal attention over one row of several packed sequences: no token sees another sequence, and nothing is padded.

Sequences of equal length that lie side by side become one batch by a change of view, so that a row sorted by length
needs one call of the kernel per distinct length. On CUDA in half precision one variable-length kernel takes them all.

A sequence may continue another one, as completions do their prompt: it sees that one too, which stands in the row once.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
    continues: tuple[int, ...] = ()
    """[S] index of the sequence that each one continues, -1: none. Empty: no sequence continues another."""
    pasts: tuple[int, ...] = field(init=False)
    """[S] tokens of the sequence that it continues"""
    positions: Tensor = field(init=False)
    """[1, T] position of every token in its sequence, counted from the start of the one that it continues"""
    bounds: Tensor = field(init=False)
    """[S + 1] int32 first token of every sequence, and T"""
    keys: Keys | None = field(init=False, default=None)
    """What the sequences see; None: each its own tokens."""

    def __post_init__(self) -> None:
        assert all(i < 0 or self.continues[i] < 0 for i in self.continues), "what is continued continues another"
        parents = self.continues or (-1,) * len(self.lengths)
        pasts = tuple(0 if i < 0 else self.lengths[i] for i in parents)
        positions = torch.cat([torch.arange(n, n + length) for n, length in zip(pasts, self.lengths, strict=True)])
        bounds = torch.tensor([0, *itertools.accumulate(self.lengths)], dtype=torch.int32)
        object.__setattr__(self, "pasts", pasts)
        object.__setattr__(self, "positions", positions.unsqueeze(0).to(self.device))
        object.__setattr__(self, "bounds", bounds.to(self.device))
        if any(pasts):
            object.__setattr__(self, "keys", Keys.of(self.lengths, parents, self.device))

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """Of neighbouring sequences that are alike: how many, the length of each, and the tokens before it."""
        alike = itertools.groupby(zip(self.lengths, self.pasts, strict=True))
        return [(len(list(run)), length, past) for (length, past), run in alike]

    @property
    def longest_seen(self) -> int:
        """Most tokens that a sequence sees, its own included."""
        return max(past + length for past, length in zip(self.pasts, self.lengths, strict=True))


@dataclass(frozen=True)
class Keys:
    """The row's tokens once for every sequence that sees them: [K] of what it continues and its own, sequence by
    sequence."""

    tokens: Tensor
    """[K] where each stands in the row"""
    uses: Tensor
    """[K] the inverse: where in `tokens` the row's tokens stand, token by token"""
    starts: Tensor
    """[T] where in `uses` each of the row's tokens begins"""
    bounds: Tensor
    """[S + 1] int32 where in `tokens` each sequence begins, and K"""

    @classmethod
    def of(cls, lengths: tuple[int, ...], parents: tuple[int, ...], device: torch.device) -> Keys:
        """Lay them out; arguments as of `Packing`."""
        ends = np.cumsum(lengths)
        own = [np.arange(end - length, end) for length, end in zip(lengths, ends, strict=True)]
        parts = [own[i] if parent < 0 else np.r_[own[parent], own[i]] for i, parent in enumerate(parents)]
        tokens = np.concatenate(parts)
        counts = np.bincount(tokens, minlength=ends[-1])
        bounds = np.cumsum([0, *map(len, parts)], dtype=np.int32)
        arrays = (tokens, np.argsort(tokens, kind="stable"), np.cumsum(counts) - counts, bounds)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def of_row(self, states: Tensor) -> Tensor:
        """[1, K, heads, head_dim] of the row's [1, T, heads, head_dim]."""
        return _Repeat.apply(states, self.tokens, self.uses, self.starts)


class _Repeat(torch.autograd.Function):
    """Picks tokens, some of them several times; the gradient sums each one's uses in one pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, uses: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(uses, starts)
        return states.index_select(1, tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        uses, starts = ctx.saved_tensors
        summed = F.embedding_bag(uses, gradient.flatten(0, 1).flatten(1), starts, mode="sum")
        return summed.unflatten(1, gradient.shape[2:]).unsqueeze(0), None, None, None


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
    if packing.keys is not None:
        packed[1:] = [packing.keys.of_row(states) for states in packed[1:]]
    if _takes_variable_lengths(query, softcap):
        return _variable_lengths(packing, *packed, scaling, sliding_window or 0), None
    sizes = [count * length for count, length, _ in packing.runs]
    seen_sizes = [count * (past + length) for count, length, past in packing.runs]
    split = [states.split(part, dim=1) for states, part in zip(packed, (sizes, seen_sizes, seen_sizes), strict=True)]
    parts = zip(packing.runs, *split, strict=True)
    done = [_equal_lengths(*run, *states, scaling, sliding_window or 0, softcap) for run, *states in parts]
    return torch.cat(done, dim=1), None


def _variable_lengths(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int
) -> Tensor:
    """[1, T, heads, head_dim] by one kernel. Of a sequence that sees more tokens than it has, its are the last."""
    bounds = packing.bounds if packing.keys is None else packing.keys.bounds
    rows = [states.squeeze(0) for states in (query, key, value)]
    gqa = {"enable_gqa": True} if query.shape[2] != key.shape[2] else {}
    sizes = (max(packing.lengths), packing.longest_seen)
    size = (window - 1, 0) if window else (-1, 0)
    return varlen_attn(*rows, packing.bounds, bounds, *sizes, scale=scaling, window_size=size, **gqa).unsqueeze(0)


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
    past: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int,
    softcap: float | None,
) -> Tensor:
    """[1, count * length, heads, head_dim] of `count` sequences of equal length, given in that layout too; key and
    value with the `past` tokens before each."""
    q, k, v = (states.squeeze(0).unflatten(0, (count, -1)).transpose(1, 2) for states in (query, key, value))
    mask, seen = None, past + length
    if softcap is not None or past or 0 < window < seen:
        mask = torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(past)
        if 0 < window < seen:
            mask = mask.triu(past + 1 - window)
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
