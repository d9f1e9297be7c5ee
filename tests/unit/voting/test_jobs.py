"""The book-keeping of calls: shares of work, jobs that wait again, the second try, the last job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.jobs import MAX_TRIES, Call, JobResult, JobStatus

DONE = JobResult(JobStatus.DONE, 1)


def _call(num_jobs: int, size: int = 1) -> tuple[Call, list[Exception | None]]:
    settled: list[Exception | None] = []
    return Call("operator:len", [("x" * size, i) for i in range(num_jobs)], settled.append), settled


@given(st.integers(1, 200), st.integers(1, 8), st.sampled_from([0, 1, 9_000, 60_000, 1 << 17, 200_000]))
def test_shares_cover_every_job_once_in_order_and_stay_small(num_jobs: int, num_workers: int, size: int) -> None:
    call, _ = _call(num_jobs, size)
    shares = []
    while call.queue:
        shares.append(call.take(num_workers))
    assert [job for share in shares for job in share] == list(range(num_jobs))
    assert max(map(len, shares)) <= 16
    assert all(len(share) == 1 or len(share) * size <= 1 << 17 for share in shares)
    assert len(shares[0]) <= -(-num_jobs // num_workers)


def test_jobs_that_were_not_begun_wait_again_in_their_old_order_unless_they_are_settled() -> None:
    call, _ = _call(6)
    taken = call.take(1)
    call.settle(2, DONE)
    call.queue.append(9)
    call.put_back(taken)
    assert list(call.queue) == [0, 1, 3, 4, 5, 9]


def test_a_call_is_settled_once_with_its_last_job_and_first_results_stay() -> None:
    call, settled = _call(2)
    call.settle(1, DONE)
    call.settle(1, JobResult(JobStatus.ERROR))
    assert settled == []
    call.settle(0, DONE)
    call.expire()
    assert call.results == [DONE, DONE]
    assert settled == [None]


def test_a_job_whose_worker_died_is_tried_again_before_it_is_an_error() -> None:
    call, settled = _call(2)
    for _ in range(MAX_TRIES - 1):
        call.take(2)
        call.retry_or_fail(0, "code 1")
        assert call.queue[0] == 0
        assert call.results[0] is None
    call.retry_or_fail(0, "code 1")
    assert call.results == [JobResult(JobStatus.ERROR, "code 1"), None]
    assert settled == []


def test_beginning_again_queues_what_is_open_whoever_had_it() -> None:
    call, _ = _call(4)
    call.take(1)
    call.settle(1, DONE)
    call.begin_again()
    assert list(call.queue) == [0, 2, 3]


def test_expiring_settles_what_is_open_and_failing_says_why() -> None:
    call, settled = _call(3)
    call.settle(0, DONE)
    call.expire()
    assert [result.status for result in call.results if result] == ["done", "expired", "expired"]
    assert settled == [None]
    other, failed = _call(1)
    error = ValueError("gone")
    other.fail(error)
    assert failed == [error]
    assert not other.queue


@pytest.mark.parametrize("status", list(JobStatus))
def test_late_is_what_a_deadline_ended(status: JobStatus) -> None:
    assert JobResult(status).is_late == (status in ("timed_out", "expired"))
