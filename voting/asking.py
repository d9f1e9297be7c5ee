"""Answers what pure voting code asks of worker processes: from memory, then in the fast lane, then in the slow one.

Each group has its own wall deadline and its own number of timeouts, so that what hangs in one group delays no other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Generator, Hashable
from typing import Any, TypeVar

from voting.jobs import Ask, Budget, JobResult, JobStatus
from voting.workers import Lane, WorkerPool

T = TypeVar("T")
Steps = Generator[Ask, list[JobResult], T]
"""A step of a vote as pure code: yields what it must ask, is sent the results, returns what it came to."""

MAX_TIMEOUTS = 8
"""After so many timeouts in one group the rest of it that is slow is not tried."""
_CACHE_ENTRIES = 1 << 16
_LOOK_SECONDS = 1.0


def finish(steps: Steps[T]) -> T:
    """Run steps that ask nothing.

    Raises:
        ValueError: they do ask; such an equivalence or extractor needs a `Tallier`, which has worker processes.
    """
    try:
        ask = next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise ValueError(f"{ask.function} runs in worker processes: use voting.tallier.Tallier")


class Asker:
    """Runs steps to their end with a pool's help; remembers each lane's results across groups.

    What a group is told never depends on what others asked before: a result that took the slow lane stays out of reach
    of a group whose timeouts are spent, remembered or not.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._known: OrderedDict[tuple[Lane, Hashable], JobResult] = OrderedDict()
        self._in_flight: dict[Hashable, asyncio.Future[None]] = {}

    async def run(self, steps: Steps[T], wall_seconds: float) -> T:
        """What the steps return.

        Args:
            steps: of one group.
            wall_seconds: for all of them together, while their jobs are worked on; what is not answered then is
                EXPIRED. Waiting behind other groups' jobs is not counted, so that company does not change a vote.

        Raises:
            VotingError: worker processes could not be started.
        """
        budget = Budget(wall_seconds)
        try:
            ask = next(steps)
            while True:
                ask = steps.send(await self._answer(ask, budget))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _answer(self, ask: Ask, budget: Budget) -> list[JobResult]:
        """One result per subject. What is slow is tried one after the other, in the order of the subjects, so that
        the number of timeouts that ends the trying depends on nothing else."""
        keys: list[Hashable] = [
            (ask.function, subject, ask.settings) if ask.is_remembered else object() for subject in ask.subjects
        ]
        results = [self._known.get((Lane.FAST, key)) for key in keys]
        unknown = [i for i, result in enumerate(results) if result is None]
        if unknown:
            fresh = await self._pool.run(
                ask.function,
                [(*ask.subjects[i], *ask.settings) for i in unknown],
                lane=Lane.FAST,
                budget=budget,
            )
            for i, result in zip(unknown, fresh, strict=True):
                results[i] = self._remember(ask, Lane.FAST, keys[i], result)
        answered = []
        for i, early in enumerate(results):
            assert early is not None
            is_slow = early.status is JobStatus.SLOW
            result = await self._answer_slowly(ask, ask.subjects[i], keys[i], budget) if is_slow else early
            budget.num_timeouts += result.is_late
            answered.append(result)
        return answered

    async def _answer_slowly(self, ask: Ask, subject: tuple[Any, ...], key: Hashable, budget: Budget) -> JobResult:
        if budget.num_timeouts >= MAX_TIMEOUTS:
            return JobResult(JobStatus.TIMED_OUT)
        if budget.seconds <= 0:
            return JobResult(JobStatus.EXPIRED)
        while (known := self._known.get((Lane.SLOW, key))) is None and key in self._in_flight:
            # Another group asks the same and pays for it; its own budget ends this wait.
            await asyncio.wait([self._in_flight[key]], timeout=_LOOK_SECONDS)
        if known is not None:
            return known
        answered = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            arguments = (*subject, *ask.settings)
            [result] = await self._pool.run(ask.function, [arguments], lane=Lane.SLOW, budget=budget)
            return self._remember(ask, Lane.SLOW, key, result)
        finally:
            del self._in_flight[key]
            answered.set_result(None)

    def _remember(self, ask: Ask, lane: Lane, key: Hashable, result: JobResult) -> JobResult:
        if ask.is_remembered and result.status is not JobStatus.EXPIRED:
            self._known[lane, key] = result
            if len(self._known) > _CACHE_ENTRIES:
                self._known.popitem(last=False)
        return result
