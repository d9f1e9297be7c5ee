"""Book-keeping of jobs on their way through a worker pool. Pure: it knows no process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_MAX_SENT_TOGETHER = 16


class JobStatus(StrEnum):
    """How a job ended."""

    DONE = "done"
    TIMED_OUT = "timed_out"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of one job."""

    status: JobStatus
    value: Any = None
    """What the function returned; for an error its kind; otherwise None."""


class Batch:
    """Jobs of one call: which wait, which are settled, which were tried before."""

    def __init__(self, function: str, arguments: Sequence[Sequence[Any]]) -> None:
        self.function = function
        self.arguments = arguments
        self.results: list[JobResult | None] = [None] * len(arguments)
        self.queue: deque[int] = deque(range(len(arguments)))
        self.num_open = len(arguments)
        self._retried: set[int] = set()

    def take(self, num_workers: int) -> list[int]:
        """The next worker's share of the waiting jobs, few enough that one slow job delays few others."""
        size = max(1, min(_MAX_SENT_TOGETHER, -(-len(self.queue) // num_workers)))
        return [self.queue.popleft() for _ in range(min(size, len(self.queue)))]

    def put_back(self, jobs: Iterable[int]) -> None:
        """Jobs that were sent but not begun wait again, in their old order."""
        self.queue.extendleft(reversed(list(jobs)))

    def finish(self, job: int, result: JobResult) -> None:
        """Settle a job."""
        assert self.results[job] is None
        self.results[job] = result
        self.num_open -= 1

    def retry_or_fail(self, job: int, reason: str) -> None:
        """A job whose worker died: once it may be chance, twice it is the job."""
        if job in self._retried:
            self.finish(job, JobResult(JobStatus.ERROR, reason))
        else:
            self._retried.add(job)
            self.queue.appendleft(job)
