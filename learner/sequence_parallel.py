"""DeepSpeed-Ulysses sequence parallelism (arXiv 2309.14509): neighbouring ranks share each packed row.

Everything but attention works on a rank's slice of the row. Around attention an all-to-all exchanges slices of the row
for heads, so that each rank attends over whole sequences with its share of the heads. What is computed at completion
tokens is gathered again: every rank of a group sees the whole row's values, and its gradient is that of its slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.attention import NAME as PACKED
from learner.attention import packed_attention
from quorum.errors import DataError

NAME = "quorum_packed_ulysses"
"""Of the attention function among those of transformers."""


@dataclass(frozen=True)
class Groups:
    """This rank's place among those that share sequences."""

    size: int
    rank: int
    """In the group that shares a row."""
    sequence: dist.ProcessGroup
    """Ranks that share a row."""
    data: dist.ProcessGroup
    """Ranks of the same place in every such group: together they hold each completion once."""


_groups: Groups | None = None


def set_up(size: int, timeout: timedelta) -> None:
    """Form groups of `size` neighbouring ranks, once the process group is up. A collective; 1 turns it off."""
    global _groups  # noqa: PLW0603 - one process group per process, as torch.distributed keeps its own
    _groups = None
    if size == 1:
        return
    ranks, world_size = dist.get_rank(), dist.get_world_size()
    rows = [list(range(first, first + size)) for first in range(0, world_size, size)]
    columns = [list(range(place, world_size, size)) for place in range(size)]
    made = {tuple(members): dist.new_group(members, timeout=timeout) for members in (*rows, *columns)}
    row, column = tuple(rows[ranks // size]), tuple(columns[ranks % size])
    _groups = Groups(size, ranks % size, made[row], made[column])


def groups() -> Groups | None:
    """Where this process shares sequences; None where every rank has rows of its own."""
    return _groups


def data_group() -> dist.ProcessGroup | None:
    """Ranks over which sums count each completion once; None: all ranks."""
    return _groups.data if _groups is not None else None


def own_slice(row: Tensor, length: int) -> Tensor:
    """[1, length] this rank's part of what belongs to a row; all of it where rows are not shared."""
    start = 0 if row.shape[1] == length else groups().rank * length
    return row[:, start : start + length]


def share_rows(model: Any) -> None:
    """Let a model whose attention has been chosen work on slices of rows, where ranks share them.

    Raises:
        DataError: the number of its heads does not allow it, or its attention is not the packed one.
    """
    if _groups is None:
        return
    if model.config._attn_implementation != PACKED:
        raise DataError(
            f"{type(model).__name__} cannot attend within packed sequences, so ranks cannot share them: set "
            "learner.sequence_parallel_size to 1"
        )
    size, config = _groups.size, model.config.get_text_config()
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % size or (key_heads % size and size % key_heads):
        raise DataError(
            f"learner.sequence_parallel_size {size} does not divide the model's {heads} attention heads and "
            f"{key_heads} key heads (or the key heads it): choose a size that does"
        )
    model.set_attn_implementation(NAME)


def shared_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """`packed_attention` over a row of which each rank holds a slice.

    Args:
        module: the attention layer.
        query: [1, heads, T / size, head_dim]
        key: [1, key_heads, T / size, head_dim]; so has `value`.
        value: see `key`.
        attention_mask: must be None.
        **kwargs: of `packed_attention`; its packing is that of the whole row.

    Returns:
        ([1, T / size, heads, head_dim], None)
    """
    assert _groups is not None
    size = _groups.size
    if key.shape[1] % size:
        key, value = (states.repeat_interleave(size // key.shape[1], dim=1) for states in (key, value))
    by_rank = [states.squeeze(0).unflatten(0, (size, -1)).transpose(1, 2) for states in (query, key, value)]
    counts = [states.shape[2] for states in by_rank]
    own_heads = _all_to_all(torch.cat(by_rank, dim=2)).flatten(0, 1)  # [T, heads of this rank, head_dim]
    whole = (states.transpose(0, 1).unsqueeze(0) for states in own_heads.split(counts, dim=1))
    out, _ = packed_attention(module, *whole, attention_mask, **kwargs)
    own_tokens = _all_to_all(out.squeeze(0).unflatten(0, (size, -1)))  # [size, T / size, heads of each, head_dim]
    return own_tokens.transpose(0, 1).flatten(1, 2).unsqueeze(0), None


class _AllToAll(torch.autograd.Function):
    """[size, ...]: part i goes to rank i, part i of the result came from it. The gradient goes back the same way."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor) -> Tensor:
        assert _groups is not None
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=_groups.sequence)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllToAll.forward(ctx, gradient)


def _all_to_all(parts: Tensor) -> Tensor:
    return _AllToAll.apply(parts)


class Slice:
    """This rank's part of a packed row and of its completion tokens."""

    def __init__(self, lengths: Sequence[int], positions: Tensor) -> None:
        """Cut a row.

        Args:
            lengths: tokens of each of its sequences.
            positions: [N] ascending indices into the row.
        """
        assert _groups is not None
        self._groups = _groups
        total = sum(lengths)
        self._length = -(-total // _groups.size)
        self._padding = self._length * _groups.size - total
        self.lengths = (*lengths, *([self._padding] if self._padding else []))
        """Of the whole row, whose padding is a sequence of its own."""
        edges = self._length * torch.arange(_groups.size + 1, device=positions.device)
        bounds = torch.searchsorted(positions, edges).tolist()
        self._counts = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
        self._own = slice(bounds[_groups.rank], bounds[_groups.rank + 1])
        self.positions = positions[self._own] - _groups.rank * self._length
        """[n] into this rank's slice."""

    def of_row(self, row: Tensor) -> Tensor:
        """[1, T / size] of [1, T]."""
        padded = nn.functional.pad(row, (0, self._padding))
        return padded[:, self._groups.rank * self._length : (self._groups.rank + 1) * self._length]

    def of_tokens(self, values: Tensor) -> Tensor:
        """[n] of [N]."""
        return values[self._own]

    def whole(self, values: Tensor) -> Tensor:
        """[N] from every rank's [n]; the gradient of this rank's part goes back to it."""
        return _Gather.apply(values, self._counts, self._own)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: list[int], own: slice) -> Tensor:
        assert _groups is not None
        ctx.own = own
        padded = nn.functional.pad(values, (0, max(counts) - values.numel()))
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=_groups.sequence)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own], None, None
