"""The sampler with the least expected work, without looking at all of them for every group."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from itertools import count

from rollout.handle import SamplerHandle


class LeastLoaded:
    """A heap of samplers by load. Whoever changes a sampler's load, or lets it work, offers it again."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, SamplerHandle]] = []
        self._numbers = count()

    def offer(self, sampler: SamplerHandle) -> None:
        """The sampler may have room now; its older entries count no more."""
        sampler.entry = next(self._numbers)
        heapq.heappush(self._heap, (sampler.load, sampler.entry, sampler))

    def offer_all(self, samplers: Iterable[SamplerHandle]) -> None:
        """Start anew."""
        self._heap.clear()
        for sampler in samplers:
            self.offer(sampler)

    def take(self, has_room: Callable[[SamplerHandle], bool]) -> SamplerHandle | None:
        """The least loaded one with room, or None. Those without room, and the one found, are out until offered."""
        while self._heap:
            _, entry, sampler = heapq.heappop(self._heap)
            if entry == sampler.entry and has_room(sampler):
                return sampler
        return None
