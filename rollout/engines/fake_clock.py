"""The time of a simulated engine: it stands still while weights change, and its completions share a number of slots."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from quorum.types import Completion
from rollout.engines.completions import RunningCompletion


@dataclass(slots=True, eq=False)
class SimulatedCompletion:
    """A completion whose tokens are known from the start, and come one by one between `begin` and `end`."""

    running: RunningCompletion
    whole: Completion
    """As it is when nobody stops it."""
    seconds: float
    """Time that its tokens take."""
    begin: float = math.inf
    """On the engine's clock."""

    @property
    def end(self) -> float:
        return self.begin + self.seconds

    def num_tokens(self, now: float) -> int:
        """Tokens that it has at a time of the engine's clock."""
        total = len(self.whole.token_ids)
        if now >= self.end:
            return total
        return 0 if now <= self.begin else min(total - 1, int(total * (now - self.begin) / self.seconds))


class SimulatedClock:
    """Says when completions begin and end, first come, first served.

    Args:
        time: seconds, as `time.monotonic` gives them.
        num_slots: completions that make tokens at a time; None: all of them.
    """

    def __init__(self, time: Callable[[], float], num_slots: int | None) -> None:
        self._time = time
        self._num_slots = num_slots
        self._stood_still = 0.0
        self._stopped_at: float | None = None
        self._queue: dict[SimulatedCompletion, None] = {}

    @property
    def now(self) -> float:
        """Seconds on the engine's clock."""
        time = self._time() if self._stopped_at is None else self._stopped_at
        return time - self._stood_still

    @property
    def stands_still(self) -> bool:
        return self._stopped_at is not None

    def stand_still(self) -> None:
        """No token comes from now on; a second call changes nothing."""
        if self._stopped_at is None:
            self._stopped_at = self._time()

    def go_on(self) -> None:
        """Tokens come again where they were left."""
        if self._stopped_at is not None:
            self._stood_still += self._time() - self._stopped_at
            self._stopped_at = None

    def add(self, completions: list[SimulatedCompletion]) -> None:
        """Queue completions behind those that are there."""
        self._queue.update(dict.fromkeys(completions))
        self._plan()

    def remove(self, completions: list[SimulatedCompletion]) -> None:
        """Forget completions that ended or were ended; those that wait move up."""
        for completion in completions:
            self._queue.pop(completion, None)
        if self._num_slots is not None:
            self._plan()

    def _plan(self) -> None:
        now = self.now
        if self._num_slots is None:
            for completion in self._queue:
                completion.begin = min(completion.begin, now)
            return
        ends = [completion.end for completion in self._queue if completion.begin <= now]
        heapq.heapify(ends)
        for completion in self._queue:
            if completion.begin > now:
                free = now if len(ends) < self._num_slots else max(now, heapq.heappop(ends))
                completion.begin = free
                heapq.heappush(ends, completion.end)
