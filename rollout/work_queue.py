"""Groups that wait for a sampler: in which order they go, and how long each is expected to be."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Literal

from quorum.types import GroupKey, GroupRequest, Receipt
from rollout.handle import MEAN_WEIGHT, Work


class WorkQueue:
    """A priority queue of groups; what a lost sampler had goes before what was never handed out."""

    def __init__(self, order: Literal["admitted", "longest_first"]) -> None:
        self._is_longest_first = order == "longest_first"
        self._heap: list[tuple[tuple[float, float, int], int, Work]] = []
        self._numbers = count()
        self._lengths: dict[str, float] = {}
        """Mean completion length of each prompt's last group, in tokens."""
        self._mean: float | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: GroupRequest) -> None:
        """Queue a new group behind those of earlier steps."""
        expected = self.expected_tokens(request)
        length = -expected if self._is_longest_first else 0.0
        self.put(Work(request, expected, (float(request.required_version), length, next(self._numbers))))

    def put(self, work: Work) -> None:
        """Queue what was taken or split before, at its old place."""
        heapq.heappush(self._heap, (work.order, next(self._numbers), work))

    def first(self) -> Work:
        return self._heap[0][2]

    def pop(self) -> Work:
        return heapq.heappop(self._heap)[2]

    def waiting(self) -> list[Work]:
        """What is in the queue, in no particular order."""
        return [entry[2] for entry in self._heap]

    def take_parts(self, key: GroupKey) -> list[Work]:
        """Remove the parts of a split group that wait here; returns them."""
        found = [entry[2] for entry in self._heap if entry[2].request.key == key]
        self._heap = [entry for entry in self._heap if entry[2].request.key != key]
        heapq.heapify(self._heap)
        return found

    def clear(self) -> None:
        self._heap.clear()

    def learn(self, request: GroupRequest, receipt: Receipt) -> None:
        """Note how long a finished group's completions were."""
        length = receipt.num_tokens / max(1, sum(receipt.finish_counts.values()))
        self._mean = length if self._mean is None else (1 - MEAN_WEIGHT) * self._mean + MEAN_WEIGHT * length
        if self._is_longest_first:
            self._lengths[request.prompt.prompt_id] = length

    def expected_tokens(self, request: GroupRequest) -> float:
        """Tokens that a group will take, its prompt among them."""
        most = request.sampling.max_completion_tokens
        known = self._lengths.get(request.prompt.prompt_id, self._mean)
        length = most if known is None else min(known, most)
        return len(request.prompt.token_ids) + len(request.drawn) * length
