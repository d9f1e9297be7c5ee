"""From receipts to micro-batches: which rank trains on which completions, together with which others.

Pure and deterministic. The plan is made from scalars alone, so the driver never touches tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quorum.types import ScoredGroup, ScoreReceipt

MAX_PADDING_SHARE = 0.1
MIN_TOKENS = 4096
"""A micro-batch of MIN_TOKENS takes no further row that would bring its padding above MAX_PADDING_SHARE: from there
on a larger one gains less than its padding costs."""


class Row(NamedTuple):
    """One completion with its prompt: a sequence to train on."""

    group: int
    """Position of its group in the batch."""
    completion: int
    num_tokens: int
    """Prompt and completion."""


MicroBatch = tuple[Row, ...]
"""Rows of one forward pass, longest first. Empty: a dummy, which keeps its rank in step with the others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Micro-batches per rank. Every rank has the same number of them."""

    ranks: tuple[tuple[MicroBatch, ...], ...]

    @property
    def num_micro_batches(self) -> int:
        """Per rank."""
        return len(self.ranks[0])

    @property
    def num_padded_tokens(self) -> int:
        """Tokens computed on, padding included."""
        return sum(padded_tokens(micro_batch) for rank in self.ranks for micro_batch in rank)

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens, without padding."""
        return sum(row.num_tokens for rank in self.ranks for micro_batch in rank for row in micro_batch)


@dataclass(frozen=True, slots=True)
class Collated:
    """One micro-batch as arrays: right-padded rows, and where their completion tokens are predicted."""

    input_ids: NDArray[np.int64]
    """[B, L]; padding is token 0, which no earlier position attends to."""
    positions: NDArray[np.int64]
    """[N] flat index into B * L of the position that predicts each completion token, row after row."""
    targets: NDArray[np.int64]
    """[N] the completion tokens"""
    rollout_logprobs: NDArray[np.float32]
    """[N]"""
    rows: NDArray[np.int64]
    """[N] which row of the micro-batch each token belongs to"""


def padded_tokens(micro_batch: MicroBatch) -> int:
    """Tokens of a micro-batch with every row padded to its longest."""
    return len(micro_batch) * max((row.num_tokens for row in micro_batch), default=0)


def plan_micro_batches(
    receipts: Sequence[ScoreReceipt], num_ranks: int, max_tokens: int, *, attention_tokens: int = 8192
) -> Plan:
    """Spread the trained completions over ranks and micro-batches.

    Rows go to ranks by largest cost first to the least loaded (LPT), where a row's cost is its tokens plus a
    square term for attention. Each rank then cuts its rows, sorted by length, into micro-batches of at most
    `max_tokens`, padding included, or fewer where padding would take over; a longer row goes alone. Ranks with
    fewer micro-batches split their largest ones, and get dummies where nothing is left to split.

    Args:
        receipts: [P] in group order.
        num_ranks: learner ranks.
        max_tokens: limit of one micro-batch in tokens, padding included.
        attention_tokens: sequence length at which attention costs as much as everything else.

    Returns:
        The plan. Every trained completion stands in it exactly once; without any there are no micro-batches.

    Raises:
        ValueError: `num_ranks` or `max_tokens` is below 1.
    """
    if num_ranks < 1 or max_tokens < 1:
        raise ValueError(f"num_ranks and max_tokens must be at least 1, got {num_ranks} and {max_tokens}")
    rows = [
        Row(position, index, receipt.prompt_tokens + num_tokens)
        for position, receipt in enumerate(receipts)
        for index, (num_tokens, trained) in enumerate(zip(receipt.completion_tokens, receipt.trained, strict=True))
        if trained and num_tokens
    ]
    rows.sort(key=lambda row: (-row.num_tokens, row.group, row.completion))
    shares = _balance(rows, num_ranks, attention_tokens)
    cut = [_cut(share, max_tokens) for share in shares]
    count = max(len(micro_batches) for micro_batches in cut)
    return Plan(tuple(tuple(_stretch(micro_batches, count)) for micro_batches in cut))


def _balance(rows: Sequence[Row], num_ranks: int, attention_tokens: int) -> list[list[Row]]:
    """LPT: rows, costliest first, each to the rank with the least cost so far."""
    shares: list[list[Row]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    for row in rows:
        load, rank = heapq.heappop(loads)
        shares[rank].append(row)
        heapq.heappush(loads, (load + row.num_tokens * (1 + row.num_tokens / attention_tokens), rank))
    return shares


def _cut(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """Consecutive rows (longest first) in micro-batches of at most `max_tokens` with padding."""
    micro_batches: list[MicroBatch] = []
    start = 0
    while start < len(rows):
        width, end, used = rows[start].num_tokens, start, 0
        while end < len(rows):
            used += rows[end].num_tokens
            padded = (end + 1 - start) * width
            is_wasteful = padded > MIN_TOKENS and padded - used > MAX_PADDING_SHARE * padded
            if end > start and (padded > max_tokens or is_wasteful):
                break
            end += 1
        micro_batches.append(tuple(rows[start:end]))
        start = end
    return micro_batches


def _stretch(micro_batches: list[MicroBatch], count: int) -> list[MicroBatch]:
    """Bring a rank to `count` micro-batches: halve the largest, then add dummies. Order of rows is kept."""
    while len(micro_batches) < count:
        sizes = [len(micro_batch) for micro_batch in micro_batches]
        largest = int(np.argmax(sizes)) if sizes else 0
        if not sizes or sizes[largest] < 2:
            return micro_batches + [()] * (count - len(micro_batches))
        whole = micro_batches[largest]
        half = (len(whole) + 1) // 2
        micro_batches = [*micro_batches[:largest], whole[:half], whole[half:], *micro_batches[largest + 1 :]]
    return micro_batches


def collate(micro_batch: MicroBatch, groups: Sequence[ScoredGroup | None]) -> Collated:
    """Right-padded arrays of one micro-batch.

    Args:
        micro_batch: rows of the plan; empty gives a dummy of one padding token without targets.
        groups: the batch's groups by position; None where no row of this rank needs the group.
    """
    width = max((row.num_tokens for row in micro_batch), default=1)
    input_ids = np.zeros((max(1, len(micro_batch)), width), dtype=np.int64)
    positions, targets, logprobs, owners = [], [], [], []
    for i, row in enumerate(micro_batch):
        scored = groups[row.group]
        assert scored is not None, f"group {row.group} of the batch was not handed to this rank"
        prompt = scored.group.prompt_token_ids
        completion = scored.group.completions[row.completion]
        num_prompt, num_completion = len(prompt), len(completion.token_ids)
        input_ids[i, :num_prompt] = prompt
        input_ids[i, num_prompt : num_prompt + num_completion] = completion.token_ids
        first = i * width + num_prompt - 1
        positions.append(np.arange(first, first + num_completion))
        targets.append(completion.token_ids)
        logprobs.append(completion.rollout_logprobs)
        owners.append(np.full(num_completion, i))
    return Collated(
        input_ids=input_ids,
        positions=_join(positions, np.int64),
        targets=_join(targets, np.int64),
        rollout_logprobs=_join(logprobs, np.float32),
        rows=_join(owners, np.int64),
    )


def _join(parts: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)
