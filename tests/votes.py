"""What tests of votes share: answers in, tallies and resolutions out; a worker pool on an event loop of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import Plugin, VotingSection
from quorum.types import Resolution, Tally
from tests.builders import make_group
from voting.asking import Steps, finish
from voting.equivalence import make_equivalence
from voting.jobs import Ask, JobResult, JobStatus
from voting.resolve import resolve
from voting.tally import cluster
from voting.workers import WorkerPool

T = TypeVar("T")
EXACT = make_equivalence(Plugin(name="exact"))
RAW = make_equivalence(Plugin(name="raw"))
CATASTROPHE = ("(a+)+$", "a" * 40 + "b")
"""Arguments with which re.match burns CPU inside C for centuries."""


def section_of(**fields: Any) -> VotingSection:
    """A voting section from plain values: `section_of(rule="soft", elect={"tie": "first"})`."""
    return VotingSection.model_validate(fields)


def tally_of(
    answers: Sequence[str | None],
    *,
    jury: Sequence[str | None] = (),
    provenance: str = "",
    weights: Sequence[float] = (),
    group_id: int = 0,
) -> Tally:
    """The tally of answers under the exact equivalence, a jury's with them."""
    made = finish(cluster(group_id, [*answers, *jury], EXACT, num_own=len(answers)))
    fields = {name: getattr(made, name) for name in made.__slots__}
    return Tally(**{**fields, "jury_provenance": provenance, "weights": tuple(weights)})


def decide(tally: Tally, **fields: Any) -> Resolution:
    """What one group's vote decides under a section given as plain values."""
    return resolve([tally], section_of(**fields))[0]


def answer_all(steps: Steps[T], answer: Callable[..., Any]) -> T:
    """Run steps to their end without processes: every subject's result is what `answer(*subject)` returns.

    A JobStatus instead of a value makes it a result of that status.
    """

    def result(value: Any) -> JobResult:
        return JobResult(value) if isinstance(value, JobStatus) else JobResult(JobStatus.DONE, value)

    try:
        ask: Ask = next(steps)
        while True:
            ask = steps.send([result(answer(*subject)) for subject in ask.subjects])
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def boxed_group(answers: Sequence[str | None], group_id: int = 0, finish_reason: str = "stop") -> Any:
    """A group whose completions box these answers; None boxes nothing."""
    texts = ["no box" if answer is None else rf"so \boxed{{{answer}}}" for answer in answers]
    return make_group([[1]] * len(answers), group_id=group_id, texts=texts)


class Pool:
    """A worker pool and the event loop it is used from."""

    def __init__(self, **limits: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.workers = WorkerPool(**{"num_workers": 1, "cpu_seconds": 0.3, **limits})

    def run(self, function: str, arguments: Iterable[Sequence[Any]], **options: Any) -> list[JobResult]:
        return self.loop.run_until_complete(self.workers.run(function, arguments, **options))

    def statuses(self, function: str, arguments: Iterable[Sequence[Any]], **options: Any) -> list[JobStatus]:
        return [result.status for result in self.run(function, arguments, **options)]

    def values(self, function: str, arguments: Iterable[Sequence[Any]], **options: Any) -> list[Any]:
        return [result.value for result in self.run(function, arguments, **options)]

    @property
    def pids(self) -> list[int]:
        return self.workers.pids


@contextmanager
def pool_of(**limits: Any) -> Iterator[Pool]:
    """A pool that is stopped in the end, whatever happens."""
    pool = Pool(**limits)
    try:
        yield pool
    finally:
        pool.workers.stop()
        pool.loop.close()


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def left_after(pids: Iterable[int], seconds: float) -> list[int]:
    """Those of the processes that still live after so long, or none as soon as none does."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
