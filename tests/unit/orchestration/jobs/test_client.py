"""Submissions by name, what is sent, and a lost job that is submitted again; Ray's client is a stand-in."""

from __future__ import annotations

import shlex
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestration.jobs import client, follow, request
from orchestration.jobs.client import Job, Jobs, Submission
from quorum.errors import ConfigError, DataError, ResourceError
from tests.unit.orchestration.jobs.fake_ray import FakeRay

WANTED = Submission("a", "/shared/a", ("my.yaml", "x.y=[1, 2]"), retries=2, working_dir=None)


def test_an_entry_point_survives_the_shell_and_names_run_retries_and_words() -> None:
    words = shlex.split(replace(WANTED, resume=True, overrides=("a.b=c d",)).entrypoint)
    assert words[3:7] == ["--run", "/shared/a", "--name", "a"]
    assert words[7:] == ["--retries", "2", "--resume", "--set=a.b=c d", "--", *WANTED.words]
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


SERVER_ERROR = "Request failed with status code 503: Internal error."


def test_an_error_of_the_server_s_own_may_pass_and_a_refusal_does_not(ray: FakeRay, jobs: Jobs) -> None:
    refusal = RuntimeError("Request failed with status code 404: Job status code 500 does not exist.")
    ray.failures = [("get_job_info", RuntimeError(SERVER_ERROR)), ("get_job_info", refusal)]
    with pytest.raises(ResourceError, match="try again"):
        jobs.job("quorum-a-1")
    with pytest.raises(DataError, match="refused"):
        jobs.job("quorum-a-1")


def test_following_and_submitting_again_outlive_errors_of_the_server(ray: FakeRay, jobs: Jobs) -> None:
    ray.ends = [("FAILED", None, 137), ("SUCCEEDED", None, 0)]
    first = jobs.submit(WANTED)
    ray.failures = [("get_job_info", RuntimeError(SERVER_ERROR)), ("submit_job", RuntimeError(SERVER_ERROR))]
    assert follow.follow(jobs, first, str, resubmit=WANTED).id == "quorum-a-2"
    assert not ray.failures


def test_a_submission_whose_answer_was_lost_is_followed_and_not_made_twice(ray: FakeRay, jobs: Jobs) -> None:
    ray.ends = [("FAILED", None, 137), ("RUNNING", None, None)]
    first = jobs.submit(WANTED)
    ray.failures = [("answer", ConnectionError("reset"))]

    def write(text: str) -> None:
        if "submitted again as quorum-a-2" in text:
            ray.jobs["quorum-a-2"].driver_exit_code = 0
            ray.end("quorum-a-2", "SUCCEEDED")

    assert follow.follow(jobs, first, write, resubmit=WANTED).exit_code == 0
    assert len(ray.sent) == 2


def test_submitting_again_is_given_up_in_the_end(ray: FakeRay, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.ends = [("FAILED", None, 137)]
    first = jobs.submit(WANTED)
    monkeypatch.setattr(follow, "SILENT_SECONDS", 0.0)
    ray.failures = [("submit_job", ConnectionError("refused"))] * 2
    with pytest.raises(ResourceError, match="quorum resume a"):
        follow.follow(jobs, first, str, resubmit=WANTED)


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


def test_a_resumed_run_has_the_time_to_stop_that_it_was_submitted_with(ray: FakeRay, jobs: Jobs) -> None:
    def seconds(job: Job, *overrides: str) -> str:
        found = request.of_job(job, overrides, retries=1, working_dir=None, driver_cpus=0)
        ray.end(job.id, "FAILED")
        ray.end(jobs.submit(found).id, "FAILED")
        return found.env["RAY_JOB_STOP_WAIT_TIME_S"]

    own = ["deadlines.learn_seconds=10", "deadlines.save_seconds=20.5", "deadlines.stop_seconds=30"]
    job = jobs.submit(submission("srt", *own))
    assert seconds(job) == "120"
    assert seconds(job, "deadlines.save_seconds=1000", "report.trace=3") == "1100"
    assert seconds(jobs.of_name(job.name)[-1]) == "1100", "the resume before had raised it"
    assert seconds(replace(job, deadlines={})) == "2490"
    with pytest.raises(ConfigError, match="deadlines.sav_seconds"):
        seconds(job, "deadlines.sav_seconds=1")


def test_a_resumed_run_gets_no_other_directory_by_itself(
    ray: FakeRay, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = jobs.submit(WANTED)
    assert request.directory_to_upload(job) is None, "nothing was uploaded for it"
    job = replace(job, working_dir="gcs://_ray_pkg_0.zip")
    with pytest.raises(ConfigError, match="--working-dir DIRECTORY"):
        request.directory_to_upload(job)
    (tmp_path / "my.yaml").write_text("")
    assert request.directory_to_upload(job) == Path()
    with pytest.raises(ConfigError, match=r"\(srt\)"):
        request.directory_to_upload(replace(job, words=("srt",)))


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
