"""From receipts to micro-batches: which rank trains on which completions, together with which others.

Pure and deterministic. The plan is made from scalars alone, so the driver never touches tokens. Where prompts are a
large part of all tokens, a group's rows stay together, and a micro-batch computes each prompt once for all of them.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from configs.schema import LearnerSection
from quorum.types import ScoreReceipt

MAX_CPU_TOKENS = 2048
"""Micro-batches on a CPU hold no more tokens: larger ones gain nothing there, their activations leave the caches."""
MIN_REPEATED_SHARE = 0.1
"""Prompts are shared where repeating them would make up more of all tokens. A group's rows differ more in length than
neighbours in the order of length, so that attention takes more calls: where 6 to 8% were repeated an update was 1.00 to
1.10 times as fast on a CPU, with 11 to 15% 1.05 to 1.20, with 24% 1.16 to 1.34, with 38% 1.55, with 70% 2.8."""
REPEATED_WEIGHT = 4
"""A repeated prompt token counts this much less towards a micro-batch's limit than one that is computed: only its keys
and values are copied."""


class Row(NamedTuple):
    """One completion with its prompt: a sequence to train on."""

    group: int
    """Position of its group in the batch."""
    completion: int
    num_tokens: int
    """Prompt and completion."""
    prompt_tokens: int
    """Of them."""
    is_shared: bool = False
    """Whether its prompt is computed once for all of the group's rows in a micro-batch."""


MicroBatch = tuple[Row, ...]
"""Rows packed into one forward pass, longest first. Empty: a dummy, which keeps its rank in step with the others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Micro-batches per rank. Every rank has the same number of them."""

    ranks: tuple[tuple[MicroBatch, ...], ...]

    @property
    def num_micro_batches(self) -> int:
        """Per rank."""
        return len(self.ranks[0])

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens; the prompt counts once for each completion, shared or not."""
        return sum(row.num_tokens for rank in self.ranks for micro_batch in rank for row in micro_batch)


def micro_batch_tokens(section: LearnerSection, device: str) -> int:
    """Most tokens of a micro-batch: as configured, on a CPU at most MAX_CPU_TOKENS."""
    limit = section.max_tokens_per_micro_batch
    return min(limit, MAX_CPU_TOKENS) if device == "cpu" else limit


def computed_tokens(micro_batch: Iterable[Row]) -> int:
    """Tokens of a micro-batch's packed row: completions, and prompts as often as they are computed."""
    rows = list(micro_batch)
    shared = {row.group: row.prompt_tokens for row in rows if row.is_shared}
    return sum(row.num_tokens - row.prompt_tokens * row.is_shared for row in rows) + sum(shared.values())


def plan_micro_batches(
    receipts: Sequence[ScoreReceipt],
    num_ranks: int,
    max_tokens: int,
    *,
    attention_tokens: int = 8192,
    may_share: bool = True,
) -> Plan:
    """Spread the trained completions over ranks and micro-batches.

    Rows go to ranks by largest cost first to the least loaded (LPT), where a row's cost is its tokens plus a
    square term for attention. Each rank then cuts its rows, sorted by length, into as many micro-batches as the
    rank that needs most of them, of at most `max_tokens` each and as equal as their rows allow; a longer row goes
    alone. A rank with too few rows gets dummies. Nothing is padded: `learner.attention` packs the rows.

    Where repeated prompts are more than MIN_REPEATED_SHARE of all tokens, rows are dealt and cut group after group
    instead, so that few groups are divided; a prompt is then computed once in each micro-batch that has rows of it.

    Args:
        receipts: [P] in group order.
        num_ranks: learner ranks.
        max_tokens: limit of one micro-batch: tokens that are computed, and a REPEATED_WEIGHTth of repeated ones.
        attention_tokens: sequence length at which attention costs as much as everything else.
        may_share: whether prompts may be shared at all.

    Returns:
        The plan. Every trained completion stands in it exactly once; without any there are no micro-batches.

    Raises:
        ValueError: `num_ranks` or `max_tokens` is below 1.
    """
    rows = [
        Row(position, index, receipt.prompt_tokens + num_tokens, receipt.prompt_tokens)
        for position, receipt in enumerate(receipts)
        for index, (num_tokens, trained) in enumerate(zip(receipt.completion_tokens, receipt.trained, strict=True))
        if trained and num_tokens
    ]
    return plan_rows(rows, num_ranks, max_tokens, attention_tokens=attention_tokens, may_share=may_share)


def plan_rows(
    rows: Sequence[Row], num_ranks: int, max_tokens: int, *, attention_tokens: int = 8192, may_share: bool = True
) -> Plan:
    """Spread rows over ranks and micro-batches; see `plan_micro_batches`."""
    if num_ranks < 1 or max_tokens < 1:
        raise ValueError(f"num_ranks and max_tokens must be at least 1, got {num_ranks} and {max_tokens}")
    if may_share and _should_share(rows):
        shared = [row._replace(is_shared=True) for row in rows]
        shared.sort(key=lambda row: (-row.prompt_tokens, row.group, _by_length(row)))
        shares = _deal(shared, num_ranks, attention_tokens)
    else:
        shares = _balance(sorted(rows, key=_by_length), num_ranks, attention_tokens)
    count = max(len(_cut(share, max_tokens)) for share in shares)
    cut = (_cut_into(share, count, max_tokens) for share in shares)
    return Plan(tuple(tuple(tuple(sorted(part, key=_by_length)) for part in parts) for parts in cut))


def _by_length(row: Row) -> tuple[int, int, int, int]:
    """Longest first; of the same prompt length side by side, which attention computes together."""
    return -row.num_tokens, -row.prompt_tokens if row.is_shared else 0, row.group, row.completion


def _should_share(rows: Sequence[Row]) -> bool:
    rows_of = itertools.groupby(sorted(rows), key=lambda row: row.group)
    once = sum(next(iter(group)).prompt_tokens for _, group in rows_of)
    repeated = sum(row.prompt_tokens for row in rows) - once
    return repeated > MIN_REPEATED_SHARE * sum(row.num_tokens for row in rows)


def _balance(rows: Sequence[Row], num_ranks: int, attention_tokens: int) -> list[list[Row]]:
    """LPT: rows, costliest first, each to the rank with the least cost so far."""
    shares: list[list[Row]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    for row in rows:
        load, rank = heapq.heappop(loads)
        shares[rank].append(row)
        heapq.heappush(loads, (load + row.num_tokens * (1 + row.num_tokens / attention_tokens), rank))
    return shares


def _deal(rows: Sequence[Row], num_ranks: int, attention_tokens: int) -> list[list[Row]]:
    """Consecutive rows to each rank, of about the same cost: no more than `num_ranks - 1` groups are divided."""
    shares: list[list[Row]] = [[] for _ in range(num_ranks)]
    costs = []
    for row, previous in zip(rows, [None, *rows], strict=False):
        saved = row.prompt_tokens if _repeats(row, previous) else 0
        costs.append((row.num_tokens - saved) * (1 + (row.num_tokens + saved) / attention_tokens))
    total = sum(costs)
    for row, cost, end in zip(rows, costs, itertools.accumulate(costs), strict=True):
        shares[min(num_ranks - 1, int(num_ranks * (end - cost / 2) / total))].append(row)
    return shares


def _repeats(row: Row, previous: Row | None) -> bool:
    return previous is not None and row.is_shared and previous.group == row.group


def _cut(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """Consecutive rows in micro-batches of at most `max_tokens`; a longer row alone."""
    micro_batches: list[list[Row]] = []
    used = 0
    for row, previous in zip(rows, [None, *rows], strict=False):
        used += row.num_tokens
        if _repeats(row, previous):
            used += -(-row.prompt_tokens // REPEATED_WEIGHT) - row.prompt_tokens
        if not micro_batches or used > max_tokens:
            micro_batches.append([])
            used = row.num_tokens
        micro_batches[-1].append(row)
    return [tuple(micro_batch) for micro_batch in micro_batches]


def _cut_into(rows: Sequence[Row], count: int, max_tokens: int) -> list[MicroBatch]:
    """`count` micro-batches of at most `max_tokens`: the smallest limit that needs no more than `count`, then dummies.

    A rank with a row longer than `max_tokens` counts it as it is, so the search starts from `max_tokens` all the same.
    """
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut(rows, middle)) <= count else (middle + 1, high)
    micro_batches = _halve_largest(_cut(rows, high), count)
    return micro_batches + [()] * (count - len(micro_batches))


def _halve_largest(micro_batches: list[MicroBatch], count: int) -> list[MicroBatch]:
    """Up to `count` micro-batches, by halving those of most rows; in the same order of rows."""
    while 0 < len(micro_batches) < count:
        largest = max(range(len(micro_batches)), key=lambda i: len(micro_batches[i]))
        whole = micro_batches[largest]
        if len(whole) < 2:
            break
        half = (len(whole) + 1) // 2
        micro_batches = [*micro_batches[:largest], whole[:half], whole[half:], *micro_batches[largest + 1 :]]
    return micro_batches
