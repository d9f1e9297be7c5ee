"""What is asked of worker processes and what comes back, and the book-keeping of calls. Pure: it knows no process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_MAX_SENT_TOGETHER = 16
_MAX_SENT_CHARACTERS = 1 << 17
MAX_TRIES = 2
"""A job whose worker died for no reason of the pool's is tried so often: once may be chance, twice is the job."""


class JobStatus(StrEnum):
    """How a job ended."""

    DONE = "done"
    TIMED_OUT = "timed_out"
    ERROR = "error"
    SLOW = "slow"
    """It used up the fast lane's CPU time; the slow lane will tell."""
    EXPIRED = "expired"
    """The caller's wall deadline passed before it was settled."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of one job."""

    status: JobStatus
    value: Any = None
    """What the function returned; for an error its kind; otherwise None."""

    @property
    def is_late(self) -> bool:
        """Whether a deadline ended it, its own or its caller's."""
        return self.status in (JobStatus.TIMED_OUT, JobStatus.EXPIRED)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that a step of a vote has for worker processes: one function on several arguments.

    Pure code yields it and is sent one JobResult per subject; it never waits for a process itself.
    """

    function: str
    """"module:function", importable in a worker."""
    subjects: tuple[tuple[Any, ...], ...]
    """JSON values: what each job is about, and the key under which its result is remembered."""
    settings: tuple[Any, ...] = ()
    """JSON values appended to every job's arguments."""
    is_remembered: bool = True
    """Whether results are worth a place in the cache: not those about whole texts."""


@dataclass(slots=True)
class Budget:
    """What one group may still spend."""

    seconds: float
    """Wall time while its jobs are worked on."""
    num_timeouts: int = 0


class Call:
    """Jobs of one call: which wait, which are settled, which were tried before."""

    def __init__(
        self,
        function: str,
        arguments: Sequence[Sequence[Any]],
        on_settled: Callable[[Exception | None], None] = lambda error: None,
        seconds: float = float("inf"),
    ) -> None:
        """Start with every job waiting.

        Args:
            function: "module:function".
            arguments: one sequence of JSON values per job.
            on_settled: called once: with None when the last job is settled, or with why the call failed.
            seconds: wall time it may take from when its first job is handed to a worker.
        """
        self.function, self.arguments, self.seconds = function, arguments, seconds
        self._began: float | None = None
        self.results: list[JobResult | None] = [None] * len(arguments)
        self.queue: deque[int] = deque(range(len(arguments)))
        self.is_suspect = False
        """Whether a worker died of one of its jobs; more of them may be of that kind."""
        self._num_open = len(arguments)
        self._on_settled = on_settled
        self._tries: dict[int, int] = {}

    def begin(self) -> None:
        """Its first job is handed to a worker now."""
        self._began = self._began or time.monotonic()

    @property
    def seconds_worked(self) -> float:
        """Wall time since it began; 0 before."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def take(self, num_workers: int) -> list[int]:
        """The next worker's share of the waiting jobs, few enough that one slow job delays few others."""
        size = max(1, min(_MAX_SENT_TOGETHER, -(-len(self.queue) // num_workers)))
        taken: list[int] = []
        characters = 0
        while self.queue and len(taken) < size:
            characters += sum(len(part) for part in self.arguments[self.queue[0]] if isinstance(part, str))
            if taken and characters > _MAX_SENT_CHARACTERS:
                break
            taken.append(self.queue.popleft())
        return taken

    def put_back(self, jobs: Iterable[int]) -> None:
        """Jobs that were sent but not begun wait again, in their old order."""
        self.queue.extendleft(reversed([job for job in jobs if self.results[job] is None]))

    def settle(self, job: int, result: JobResult) -> None:
        """Settle a job; what comes after its caller's deadline is dropped."""
        if self.results[job] is not None:
            return
        self.results[job] = result
        self._num_open -= 1
        if not self._num_open:
            self._on_settled(None)

    def retry_or_fail(self, job: int, reason: str) -> None:
        """A job whose worker died."""
        self._tries[job] = self._tries.get(job, 1) + 1
        if self._tries[job] > MAX_TRIES:
            self.settle(job, JobResult(JobStatus.ERROR, reason))
        else:
            self.put_back([job])

    def begin_again(self) -> None:
        """Every job that is not settled waits, whoever had it."""
        self.queue = deque(job for job, result in enumerate(self.results) if result is None)

    def fail(self, error: Exception) -> None:
        """Nobody can run the rest."""
        self.queue.clear()
        self._on_settled(error)

    def expire(self) -> None:
        """Give up on every job that is not settled."""
        self.queue.clear()
        for job, result in enumerate(self.results):
            if result is None:
                self.settle(job, JobResult(JobStatus.EXPIRED))
