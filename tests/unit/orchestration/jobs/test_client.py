"""Submissions by name, what is sent, and a lost job that is submitted again; Ray's client is a stand-in."""

from __future__ import annotations

import shlex
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.jobs import client, follow, request
from orchestration.jobs.client import Job, Jobs, Submission
from quorum.errors import ConfigError, ResourceError

WANTED = Submission("a", "/shared/a", ("my.yaml", "x.y=[1, 2]"), retries=2, working_dir=None)


class FakeRay:
    """A job server: what was submitted, and how each submission is to stand."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.jobs: dict[str, SimpleNamespace] = {}
        self.ends: list[tuple[str, str | None, int | None]] = []
        """(status, kind of error, exit code) of the next submissions."""

    def submit_job(self, **sent: Any) -> str:
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
        return str(sent["submission_id"])

    def list_jobs(self) -> list[SimpleNamespace]:
        return [*self.jobs.values(), SimpleNamespace(**vars(stranger()))]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
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


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(client, "_client", lambda address: fake)
    monkeypatch.setattr(client, "use_token", lambda: None)
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.0)
    return fake


@pytest.fixture
def jobs(ray: FakeRay) -> Jobs:
    return Jobs("http://h:8265")


def test_an_entry_point_survives_the_shell_and_names_run_retries_and_words() -> None:
    words = shlex.split(replace(WANTED, resume=True, overrides=("a.b=c d",)).entrypoint)
    assert words[3:] == ["--run", "/shared/a", "--retries", "2", "--resume", "--set=a.b=c d", "--", *WANTED.words]
    assert "--again" in replace(WANTED, again=True).entrypoint
    assert "--again" not in replace(WANTED, again=True, resume=True).entrypoint, "the user's overrides still count"


def test_submissions_of_a_name_are_numbered_and_strangers_left_out(ray: FakeRay, jobs: Jobs) -> None:
    first = jobs.submit(WANTED)
    ray.end(first.id, "FAILED")
    second = jobs.submit(WANTED)
    assert [job.id for job in jobs.of_name("a")] == [first.id, second.id] == ["quorum-a-1", "quorum-a-2"]
    assert second.words == WANTED.words and [job.name for job in jobs.all()] == ["a", "a"]


@pytest.mark.parametrize("other", [WANTED, replace(WANTED, name="b"), replace(WANTED, run="/shared/b")])
def test_a_name_or_a_directory_in_use_is_refused(ray: FakeRay, jobs: Jobs, other: Submission) -> None:
    jobs.submit(WANTED)
    with pytest.raises(ConfigError, match="quorum logs a --follow"):
        jobs.submit(other)
    assert len(ray.sent) == 1


def test_an_unknown_name_and_no_address_say_what_to_do(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.submit(WANTED)
    with pytest.raises(ConfigError, match="did you mean a"):
        jobs.of_name("aa")
    for name in client.ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="set RAY_ADDRESS"):
        Jobs()


def test_an_address_on_the_command_line_outdoes_ray_s_variables(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    seen: list[tuple[str, str | None]] = []

    def connect(address: str) -> FakeRay:
        seen.append((address, client.os.environ.get("RAY_ADDRESS")))
        return ray

    monkeypatch.setattr(client, "_client", connect)
    assert Jobs("h:8265").address == "http://h:8265" and Jobs().address == "http://other:8265"
    assert seen == [("http://h:8265", None), ("http://other:8265", "http://other:8265")]
    assert client.os.environ["RAY_ADDRESS"] == "http://other:8265"


def test_a_server_that_is_not_reached_is_a_resource_error(ray: FakeRay, jobs: Jobs) -> None:
    def refuse() -> None:
        raise ConnectionError("refused")

    ray.list_jobs = refuse  # type: ignore[assignment]
    with pytest.raises(ResourceError, match="is not reached"):
        jobs.all()


def test_a_lost_job_is_submitted_again_as_often_as_allowed(ray: FakeRay, jobs: Jobs) -> None:
    ray.ends = [("FAILED", "JOB_SUPERVISOR_ACTOR_DIED", None), ("FAILED", None, 137), ("SUCCEEDED", None, 0)]
    written: list[str] = []
    ended = follow.follow(jobs, jobs.submit(WANTED), written.append, resubmit=WANTED)
    assert (ended.id, ended.exit_code) == ("quorum-a-3", 0)
    assert "--again" not in ray.sent[0]["entrypoint"] and "--again" in ray.sent[2]["entrypoint"]
    assert "quorum-a-1 was lost (JOB_SUPERVISOR_ACTOR_DIED)" in "".join(written)
    ray.ends = [("FAILED", None, -9)] * 3
    assert follow.follow(jobs, jobs.submit(WANTED), written.append, resubmit=WANTED).exit_code == 5
    assert len(ray.sent) == 6


def test_a_job_that_failed_by_itself_is_not_submitted_again(ray: FakeRay, jobs: Jobs) -> None:
    ray.ends = [("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 3)]
    assert follow.follow(jobs, jobs.submit(WANTED), str, resubmit=WANTED).exit_code == 3
    assert len(ray.sent) == 1


def test_exit_codes_are_those_of_train(ray: FakeRay, jobs: Jobs) -> None:
    job: Job = jobs.submit(WANTED)
    assert replace(job, state="stopped").exit_code == 143
    assert replace(job, state="succeeded", code=None).exit_code == 0
    assert replace(job, state="failed", code=5).exit_code == 5


def submission(config: str = "srt", *overrides: str, working_dir: Path | None = None, **options: Any) -> Submission:
    settings = {"name": None, "retries": 1, "driver_cpus": 0.0, "working_dir": working_dir} | options
    return request.of_config(config, ["run.dir=/shared/Run A", *overrides], **settings)


def test_a_submission_runs_on_the_cluster_under_a_name_of_its_directory() -> None:
    found = submission()
    assert found.name == "run-a" and found.words == ("srt", "run.dir=/shared/Run A", "cluster.address=auto")
    assert submission("srt", "cluster.address=h:1").words[-1] == "cluster.address=h:1"
    deadlines = ["deadlines.learn_seconds=10", "deadlines.save_seconds=20", "deadlines.stop_seconds=30"]
    assert submission("srt", *deadlines).env == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}


@pytest.mark.parametrize(
    ("run_dir", "word"), [("s3://bucket/run", "object stores"), ("runs/a", "mounted on all nodes")]
)
def test_a_run_directory_that_nodes_cannot_share_is_refused(run_dir: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        submission("srt", f"run.dir={run_dir}")


def test_a_configuration_outside_of_what_is_uploaded_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "work", tmp_path / "my.yaml"
    inside.mkdir()
    outside.write_text("model: {path: o/m}\ndata: {train: [{path: p.jsonl}]}\nrun: {dir: /shared/x}\n")
    with pytest.raises(ConfigError, match="--working-dir"):
        submission(str(outside), working_dir=inside)
    assert submission(str(outside), working_dir=tmp_path).words[0] == "my.yaml"
    assert submission(str(outside)).words[0] == str(outside)


def test_a_secret_in_an_override_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "0123456789-secret")
    with pytest.raises(ConfigError, match=r"\$HF_TOKEN") as caught:
        submission("srt", "model.path=/models/0123456789-secret")
    assert "0123456789" not in str(caught.value)


def test_files_that_hold_secrets_are_not_packed(tmp_path: Path) -> None:
    """Ray's own packing, with our patterns."""
    from ray._private.runtime_env.packaging import create_package

    work, package = tmp_path / "work", tmp_path / "package.zip"
    secret = ["secrets.env", ".env", ".env.local", "deep/prod.env", ".aws/credentials", ".netrc", "a.pem", "runs/a/x"]
    for name in [*secret, "my.yaml", "deep/runs/code.py", "environment.py"]:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
    create_package(str(work), package, include_gitignore=True, excludes=list(client.NOT_UPLOADED))
    packed = [name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")]
    assert sorted(packed) == ["deep/runs/code.py", "environment.py", "my.yaml"]
