"""Following a submitted run to its end: its log as it grows, and a new submission when its node is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from orchestration.jobs.client import Job, Jobs, Submission
from quorum.errors import QuorumError, ResourceError

LOOK_SECONDS = 1.0
SHARE_OF_TIME = 0.1
"""Of it at most is spent on reading the log, which comes whole each time: a long log is read less often."""
SILENT_SECONDS = 300.0
"""Without any answer of the cluster before the client gives up; the job may go on."""
Write = Callable[[str], None]


class LogReader:
    """What a submission's log has got longer by since the last look."""

    def __init__(self, jobs: Jobs, job_id: str) -> None:
        self._jobs, self._job_id, self._seen = jobs, job_id, 0
        self._next = 0.0

    def more(self, *, at_once: bool = False) -> str:
        """New text; none while it is too early to look again, or its node is not reached."""
        began = time.monotonic()
        if began < self._next and not at_once:
            return ""
        try:
            text = self._jobs.log(self._job_id)
        except QuorumError:  # the node that has it is gone, or slow: how the job stands is asked for elsewhere
            text = ""
        took = time.monotonic() - began
        self._next = time.monotonic() + max(LOOK_SECONDS, took / SHARE_OF_TIME)
        new, self._seen = text[self._seen :], max(self._seen, len(text))
        return new


def follow(jobs: Jobs, job: Job, write: Write, *, resubmit: Submission | None = None) -> Job:
    """Write a submission's log until it ends.

    Args:
        jobs: of the cluster.
        job: to follow.
        write: gets text as it comes, with its line ends.
        resubmit: of the run: submitted again, at most `retries` times, when the job is lost with its node; None
            leaves a lost one.

    Returns:
        The last submission, as it ended.

    Raises:
        ResourceError: the cluster was silent for `SILENT_SECONDS`; what runs there may go on.
    """
    num_left = resubmit.retries if resubmit is not None else 0
    while True:
        ended = _to_the_end(jobs, job, write)
        if not ended.is_lost or resubmit is None or not num_left:
            return ended
        num_left -= 1
        job = _submit_again(jobs, ended, replace(resubmit, again=True))
        write(
            f"quorum: job {ended.id} was lost ({_reason(ended)}); submitted again as {job.id}, from the last "
            f"checkpoint of {job.run}; {num_left} more times if needed\n"
        )


def _submit_again(jobs: Jobs, lost: Job, wanted: Submission) -> Job:
    """A submission after `lost`: made now, or found where the answer to it, or somebody else's, got lost.

    Raises:
        ResourceError: there was none within `SILENT_SECONDS`.
    """
    began = time.monotonic()
    while True:
        try:
            later = [job for job in jobs.all() if job.name == lost.name and job.number > lost.number]
            return later[-1] if later else jobs.submit(wanted)
        except ResourceError as exc:
            if time.monotonic() - began > SILENT_SECONDS:
                raise ResourceError(
                    f"job {lost.id} was lost ({_reason(lost)}) and could not be submitted again for "
                    f"{SILENT_SECONDS:g} s ({exc}); go on with it: `quorum resume {lost.name}`"
                ) from exc
        time.sleep(LOOK_SECONDS)


def _to_the_end(jobs: Jobs, job: Job, write: Write) -> Job:
    reader, heard = LogReader(jobs, job.id), time.monotonic()
    while True:
        try:
            now: Job | None = jobs.job(job.id)
            heard = time.monotonic()
        except ResourceError as exc:
            now = None
            if time.monotonic() - heard > SILENT_SECONDS:
                raise ResourceError(
                    f"the cluster has been silent for {SILENT_SECONDS:g} s ({exc}); job {job.id} may go on: "
                    f"`quorum logs {job.name} --follow`"
                ) from exc
        if text := reader.more(at_once=now is not None and not now.is_live):
            write(text)
        if now is not None and not now.is_live:
            return now
        time.sleep(LOOK_SECONDS)


def _reason(job: Job) -> str:
    return job.error or f"exit code {job.code}"
