"""What is asked of workers and what is remembered: a pool without processes counts the jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorum.errors import VotingError
from voting.asking import MAX_TIMEOUTS, Asker, Steps, finish
from voting.jobs import Ask, Budget, JobResult, JobStatus
from voting.workers import Lane

pytestmark = pytest.mark.wall_clock

DONE, SLOW, TIMED_OUT, EXPIRED = JobStatus.DONE, JobStatus.SLOW, JobStatus.TIMED_OUT, JobStatus.EXPIRED


class CountingPool:
    """Answers at once by the subject's first letter: quick, slow or hanging, "e" is an error. Keeps what it was asked.

    A slow job takes `slow_seconds` of wall time and a hanging one `hang_seconds`, in the slow lane alone.
    """

    def __init__(self, slow_seconds: float = 0.0, hang_seconds: float = 0.0) -> None:
        self.seconds = {"s": slow_seconds, "h": hang_seconds}
        self.asked: list[tuple[Lane, str, tuple[Any, ...]]] = []
        self.is_broken = False

    async def run(
        self, function: str, arguments: Sequence[Sequence[Any]], *, lane: Lane, budget: Budget
    ) -> list[JobResult]:
        results = []
        for job in arguments:
            self.asked.append((lane, function, tuple(job)))
            if lane is Lane.SLOW:
                left = budget.seconds
                seconds = self.seconds.get(job[0][0], 0.0)
                await asyncio.sleep(min(seconds, max(0.0, left)))
                budget.seconds -= min(seconds, left)
                if self.is_broken:
                    raise VotingError("no worker is left")
                if seconds > left:
                    results.append(JobResult(EXPIRED))
                    continue
            results.append(self._result(job[0], lane))
        return results

    def _result(self, subject: str, lane: Lane) -> JobResult:
        if subject[0] in "sh" and lane is Lane.FAST:
            return JobResult(SLOW)
        if subject[0] == "h":
            return JobResult(TIMED_OUT)
        return JobResult(JobStatus.ERROR, "ValueError") if subject[0] == "e" else JobResult(DONE, subject)

    def num_asked(self, lane: Lane) -> int:
        return sum(asked[0] is lane for asked in self.asked)


def asking(*subjects: str, function: str = "f", settings: tuple[Any, ...] = (), **options: Any) -> Steps[list[Any]]:
    """Steps that ask once and return what they are told."""
    return (yield Ask(function, tuple((subject,) for subject in subjects), settings, **options))


def run(asker: Asker, *groups: Steps[Any], wall_seconds: float = 60.0) -> list[Any]:
    """What the groups' steps return, all of them at once."""

    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*(asker.run(group, wall_seconds) for group in groups)))

    return asyncio.run(all_of_them())


def statuses(results: list[JobResult]) -> list[JobStatus]:
    return [result.status for result in results]


def test_steps_that_ask_nothing_return_at_once() -> None:
    def steps() -> Steps[int]:
        return 7
        yield

    pool = CountingPool()
    assert finish(steps()) == run(Asker(pool), steps())[0] == 7
    assert pool.asked == []


def test_steps_that_ask_need_workers() -> None:
    with pytest.raises(ValueError, match="Tallier"):
        finish(asking("q"))


def test_every_subject_is_answered_in_order_by_one_call_with_the_settings_appended() -> None:
    pool = CountingPool()
    [results] = run(Asker(pool), asking("q2", "q1", "e", settings=(True, 6)))
    assert results == [JobResult(DONE, "q2"), JobResult(DONE, "q1"), JobResult(JobStatus.ERROR, "ValueError")]
    assert pool.asked == [(Lane.FAST, "f", (subject, True, 6)) for subject in ("q2", "q1", "e")]


def test_what_another_group_asked_is_remembered() -> None:
    pool = CountingPool()
    asker = Asker(pool)
    run(asker, asking("q1", "s1", "h1", "e1"))
    before = len(pool.asked)
    [results] = run(asker, asking("e1", "h1", "q1", "s1"))
    assert statuses(results) == [JobStatus.ERROR, TIMED_OUT, DONE, DONE]
    assert results[2:] == [JobResult(DONE, "q1"), JobResult(DONE, "s1")]
    assert len(pool.asked) == before == 6


def test_function_and_settings_are_part_of_what_is_remembered() -> None:
    pool = CountingPool()
    asker = Asker(pool)
    run(asker, asking("q"))
    run(asker, asking("q", settings=(1,)))
    run(asker, asking("q", function="g"))
    assert [asked[1:] for asked in pool.asked] == [("f", ("q",)), ("f", ("q", 1)), ("g", ("q",))]


def test_questions_about_whole_texts_are_not_remembered() -> None:
    pool = CountingPool()
    asker = Asker(pool)
    for _ in range(2):
        assert statuses(run(asker, asking("q", "s", is_remembered=False))[0]) == [DONE, DONE]
    assert (pool.num_asked(Lane.FAST), pool.num_asked(Lane.SLOW)) == (4, 2)


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    pool = CountingPool()
    asker = Asker(pool)
    run(asker, asking(*(f"q{i}" for i in range(70_000))))
    run(asker, asking("q69999"))
    assert len(pool.asked) == 70_000
    run(asker, asking("q0"))
    assert len(pool.asked) == 70_001


def test_two_groups_that_ask_the_same_slow_thing_at_once_pay_once() -> None:
    pool = CountingPool(slow_seconds=0.02, hang_seconds=0.02)
    subjects = ["s1", "h1", "s2", "h2"]
    groups = run(Asker(pool), *(asking(*subjects) for _ in range(5)))
    assert [statuses(results) for results in groups] == [[DONE, TIMED_OUT, DONE, TIMED_OUT]] * 5
    assert pool.num_asked(Lane.SLOW) == 4


def test_a_slow_thing_that_another_group_has_paid_meanwhile_is_not_paid_again() -> None:
    pool = CountingPool(slow_seconds=0.02)
    run(Asker(pool), asking("s1", "s2"), asking("s3", "s1", "s2"), asking("s4", "s5", "s2", "s1"))
    assert pool.num_asked(Lane.SLOW) == 5


def test_after_so_many_timeouts_the_rest_that_is_slow_is_not_tried_but_quick_things_are_answered() -> None:
    pool = CountingPool()
    hanging = [f"h{i}" for i in range(20)]
    [results] = run(Asker(pool), asking("s1", *hanging, "s2", "q1", "e1"))
    assert statuses(results) == [DONE, *[TIMED_OUT] * 20, TIMED_OUT, DONE, JobStatus.ERROR]
    tried = [subject for lane, _, (subject,) in pool.asked if lane is Lane.SLOW]
    assert tried == ["s1", *hanging[:MAX_TIMEOUTS]]
    assert MAX_TIMEOUTS == 8


def test_timeouts_count_over_all_questions_of_a_group_and_for_no_other_group() -> None:
    def two_questions() -> Steps[list[JobStatus]]:
        first = yield from asking(*(f"h{i}" for i in range(5)))
        second = yield from asking(*(f"h{i}" for i in range(5, 12)), "s1", "q1")
        return statuses(first + second)

    pool = CountingPool()
    one, other = run(Asker(pool), two_questions(), asking("s1", "h20"))
    assert one == [TIMED_OUT] * 12 + [TIMED_OUT, DONE]
    assert statuses(other) == [DONE, TIMED_OUT]
    assert pool.num_asked(Lane.SLOW) == MAX_TIMEOUTS + 2


def test_what_was_not_tried_is_not_remembered() -> None:
    pool = CountingPool()
    asker = Asker(pool)
    run(asker, asking(*(f"h{i}" for i in range(9)), "s1"))
    assert statuses(run(asker, asking("s1", "h8"))[0]) == [DONE, TIMED_OUT]
    assert pool.num_asked(Lane.SLOW) == MAX_TIMEOUTS + 2


_MIXED = st.lists(st.sampled_from([f"{kind}{i}" for kind in "qshe" for i in range(4)]), max_size=8)
_SUBJECTS = st.tuples(_MIXED, st.integers(0, 9), _MIXED).map(
    lambda parts: [*parts[0], *(f"h{i}" for i in range(parts[1])), *parts[2]]
)


@settings(max_examples=50)
@given(st.lists(_SUBJECTS, min_size=1, max_size=4), st.booleans())
def test_what_a_group_is_told_does_not_depend_on_what_others_asked(groups: list[list[str]], at_once: bool) -> None:
    alone = [run(Asker(CountingPool()), asking(*subjects))[0] for subjects in groups]
    asker = Asker(CountingPool())
    if at_once:
        assert run(asker, *(asking(*subjects) for subjects in groups)) == alone
    else:
        assert [run(asker, asking(*subjects))[0] for subjects in groups] == alone


def test_a_slow_thing_that_is_known_already_stays_untried_where_the_timeouts_are_spent() -> None:
    hanging = [f"h{i}" for i in range(8)]
    asker = Asker(CountingPool())
    run(asker, asking("s1"))
    assert statuses(run(asker, asking(*hanging, "s1"))[0]) == [TIMED_OUT] * 9


def test_a_groups_wall_deadline_ends_it_alone_and_what_expired_is_tried_again() -> None:
    pool = CountingPool(hang_seconds=30)
    asker = Asker(pool)

    async def two_groups() -> tuple[list[JobResult], list[JobResult]]:
        late = asyncio.ensure_future(asker.run(asking("h1", "q1", "s1"), 0.05))
        other = asyncio.ensure_future(asker.run(asking("s2", "q1"), 60))
        return await late, await other

    started = time.monotonic()
    late, other = asyncio.run(two_groups())
    assert time.monotonic() - started < 5
    assert statuses(late)[:2] == [EXPIRED, DONE]
    assert statuses(other) == [DONE, DONE]
    pool.seconds["h"] = 0.0
    assert statuses(run(asker, asking("h1"))[0]) == [TIMED_OUT]


def test_waiting_for_what_another_group_tries_costs_nothing_of_ones_own_time() -> None:
    pool = CountingPool(slow_seconds=0.3)
    asker = Asker(pool)  # type: ignore[arg-type]

    async def two_groups() -> tuple[list[JobResult], list[JobResult]]:
        patient = asyncio.ensure_future(asker.run(asking("s1"), 60))
        await asyncio.sleep(0.01)
        return await asker.run(asking("s1"), 0.05), await patient

    hasty, patient = asyncio.run(two_groups())
    assert (statuses(hasty), statuses(patient)) == ([DONE], [DONE])
    assert [lane for lane, *_ in pool.asked].count(Lane.SLOW) == 1


def test_what_expired_for_the_group_that_tried_it_is_tried_by_the_one_that_waited() -> None:
    pool = CountingPool(slow_seconds=0.1)

    async def two_groups() -> tuple[list[JobResult], list[JobResult]]:
        asker = Asker(pool)
        hasty = asyncio.ensure_future(asker.run(asking("s1"), 0.03))
        await asyncio.sleep(0.01)
        return await hasty, await asker.run(asking("s1"), 60)

    hasty, patient = asyncio.run(two_groups())
    assert (statuses(hasty), statuses(patient)) == ([EXPIRED], [DONE])
    assert pool.num_asked(Lane.SLOW) == 2


def test_a_pool_that_is_gone_is_an_error_for_everybody_who_waits() -> None:
    pool = CountingPool(slow_seconds=0.01)
    pool.is_broken = True
    asker = Asker(pool)

    async def three_groups() -> list[Any]:
        groups = [asker.run(asking("s1"), 60) for _ in range(3)]
        return list(await asyncio.gather(*groups, return_exceptions=True))

    assert [type(result) for result in asyncio.run(three_groups())] == [VotingError] * 3
    pool.is_broken = False
    assert statuses(run(asker, asking("s1"))[0]) == [DONE]
