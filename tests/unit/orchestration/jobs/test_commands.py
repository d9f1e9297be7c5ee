"""What `quorum resume` and `quorum scale` do and say about a submitted run; Ray's client is a stand-in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestration.cli.main import app
from orchestration.jobs import follow
from orchestration.jobs.client import Job, Jobs, Submission
from orchestration.jobs.lookup import run_directory
from quorum.errors import ConfigError
from tests.unit.orchestration.jobs.fake_ray import FakeRay

WANTED = Submission("a", "/shared/a", ("my.yaml",), retries=2, working_dir=None)
ADDRESS = "--address=http://h:8265"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quorum(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, ADDRESS])


def ended(ray: FakeRay, jobs: Jobs, working_dir: str | None) -> Job:
    job = jobs.submit(replace(WANTED, working_dir=working_dir))
    ray.end(job.id, "FAILED")
    return job


def test_resume_uploads_nothing_where_nothing_was(ray: FakeRay, jobs: Jobs, folder: Path) -> None:
    ended(ray, jobs, None)
    (folder / "my.yaml").write_text("")
    done = quorum("resume", "a", "--no-wait")
    assert done.exit_code == 0 and "uploads nothing" in done.output, done.output
    assert "working_dir" not in ray.sent[1]["runtime_env"] and "--again" in ray.sent[1]["entrypoint"]


def test_resume_says_which_directory_it_uploads_and_asks_where_it_cannot_know(
    ray: FakeRay, jobs: Jobs, folder: Path
) -> None:
    ended(ray, jobs, "gcs://_ray_pkg_0.zip")
    asked = quorum("resume", "a", "--no-wait")
    assert asked.exit_code == 2 and "--working-dir DIRECTORY" in asked.output and len(ray.sent) == 1
    (folder / "my.yaml").write_text("")
    done = quorum("resume", "a", "--no-wait")
    assert done.exit_code == 0 and f"uploads {folder}" in done.output.replace("\n", ""), done.output
    assert ray.sent[1]["runtime_env"]["working_dir"] == "."


def test_scaling_a_submitted_run_names_the_run(ray: FakeRay, jobs: Jobs) -> None:
    jobs.submit(WANTED)
    ray.ends = [("SUCCEEDED", None, 0), ("FAILED", None, 4)]
    done = quorum("scale", "a", "-n", "3")
    assert done.exit_code == 0 and "run  " not in done.output and "log of quorum-a-1-scale" in done.output
    failed = quorum("scale", "a", "-n", "3")
    assert failed.exit_code == 4
    assert "run a: the order for 3 samplers ended with exit code 4" in failed.output


def test_a_scaling_that_is_no_longer_watched_names_the_run(
    ray: FakeRay, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(jobs: Jobs, job: Job, write: object) -> Job:
        raise KeyboardInterrupt

    jobs.submit(WANTED)
    monkeypatch.setattr(follow, "follow", interrupted)
    done = quorum("scale", "a", "-n", "3")
    assert done.exit_code == 130
    assert "run a: the order for 3 samplers stands" in done.output and "quorum logs a --follow" in done.output
    assert "quorum stop" not in done.output


def test_resume_refuses_what_no_run_takes_before_anything_is_uploaded(ray: FakeRay, jobs: Jobs) -> None:
    ended(ray, jobs, None)
    wrong = quorum("resume", "a", "run.nosuch=1", "learner.num_ranks=many", "--no-wait")
    assert wrong.exit_code == 2 and "run.nosuch: unknown key" in wrong.output and "learner.num_ranks" in wrong.output
    assert "uploads" not in wrong.output and len(ray.sent) == 1
    right = quorum(
        "resume", "a", "rollout.num_samplers=3", "data.train.7.path=x", "deadlines.save_seconds=9", "--no-wait"
    )
    assert right.exit_code == 0, right.output


def test_a_live_run_is_not_resumed_and_nothing_is_said_of_an_upload(ray: FakeRay, jobs: Jobs) -> None:
    jobs.submit(WANTED)
    live = quorum("resume", "a", "--no-wait")
    assert live.exit_code == 2 and "uploads" not in live.output and "run 'a' is running" in live.output


@pytest.mark.parametrize(("state", "words"), [("SUCCEEDED", "has succeeded"), ("STOPPED", "was stopped")])
def test_a_run_that_is_over_is_neither_scaled_nor_stopped(ray: FakeRay, jobs: Jobs, state: str, words: str) -> None:
    ray.end(jobs.submit(WANTED).id, state)
    scaled = quorum("scale", "a", "-n", "3")
    assert scaled.exit_code == 2 and f"run a {words}" in scaled.output and len(ray.sent) == 1, scaled.output
    stopped = quorum("stop", "a")
    assert stopped.exit_code == 0 and f"run a {words} already" in stopped.output


def test_status_counts_steps_done_and_only_for_the_last_submission(ray: FakeRay, jobs: Jobs, folder: Path) -> None:
    wanted = replace(WANTED, run=str(folder))
    ray.end(jobs.submit(wanted).id, "FAILED")
    jobs.submit(wanted)
    (folder / "metrics.jsonl").write_text('{"step": 6, "branch": 0, "incarnation": 0, "time/step_seconds": 1.0}\n')
    lines = [line.split() for line in quorum("status", "a").output.splitlines() if line.startswith("a ")]
    assert [line[-2] for line in lines] == ["-", "7"]


def test_logs_leave_out_what_ray_says_of_itself(ray: FakeRay, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.submit(WANTED)
    head = "2026-01-01 00:00:00,1\tINFO job_manager.py:587 -- "
    text = f"{head}Runtime env is setting up.\n{head}Running entrypoint for job a: python\nrollout step 1\n"
    monkeypatch.setattr(ray, "get_job_logs", lambda job_id: text)
    assert quorum("logs", "a").output == "rollout step 1\n"


def test_a_directory_is_found_by_the_name_of_a_submitted_run(
    ray: FakeRay, jobs: Jobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.submit(replace(WANTED, run=str(folder / "a")))
    (folder / "a").mkdir()
    (folder / "a" / "run.json").write_text("{}")
    monkeypatch.setenv("RAY_ADDRESS", "http://h:8265")
    assert run_directory("a") == folder / "a"
    with pytest.raises(ConfigError, match="nor is it a run directory here"):
        run_directory("b")
