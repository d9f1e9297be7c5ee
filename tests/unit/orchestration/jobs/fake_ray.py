"""A stand-in for the client of Ray's job server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class FakeRay:
    """A job server: what was submitted, and how each submission is to stand."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.jobs: dict[str, SimpleNamespace] = {}
        self.ends: list[tuple[str, str | None, int | None]] = []
        """(status, kind of error, exit code) of the next submissions."""
        self.failures: list[tuple[str, Exception]] = []
        """Of the next calls of a name."""

    def fail(self, call: str) -> None:
        """Raise what the next call of this name is to raise, if anything."""
        for failure in [failure for failure in self.failures if failure[0] == call][:1]:
            self.failures.remove(failure)
            raise failure[1]

    def submit_job(self, **sent: Any) -> str:
        self.fail("submit_job")
        if sent["submission_id"] in self.jobs:
            raise RuntimeError("Request failed: Job with submission_id already exists.")
        self.sent.append(sent)
        status, error, code = self.ends.pop(0) if self.ends else ("RUNNING", None, None)
        self.jobs[sent["submission_id"]] = SimpleNamespace(
            submission_id=sent["submission_id"],
            metadata=sent["metadata"],
            status=SimpleNamespace(value=status),
            message=None,
            error_type=error,
            driver_exit_code=code,
            start_time=1000 * len(self.sent),
            end_time=None,
            driver_node_id="n1",
            runtime_env=sent["runtime_env"],
        )
        self.fail("answer")
        return str(sent["submission_id"])

    def list_jobs(self) -> list[SimpleNamespace]:
        return [*self.jobs.values(), SimpleNamespace(**vars(stranger()))]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        self.fail("get_job_info")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return f"log of {job_id}\n"

    def end(self, job_id: str, status: str) -> None:
        self.jobs[job_id].status = SimpleNamespace(value=status)


def stranger() -> SimpleNamespace:
    """A job of the cluster that is no run of ours."""
    return SimpleNamespace(
        submission_id="raysubmit_x",
        metadata=None,
        status=SimpleNamespace(value="RUNNING"),
        message="",
        error_type=None,
        driver_exit_code=None,
        start_time=None,
        end_time=None,
        driver_node_id=None,
        runtime_env=None,
    )
