"""What `quorum resume` and `quorum scale` do and say about a submitted run; Ray's client is a stand-in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestration.cli.main import app
from orchestration.jobs import follow
from orchestration.jobs.client import Job, Jobs, Submission
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
