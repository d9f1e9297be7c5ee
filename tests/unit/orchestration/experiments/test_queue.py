"""Runs of an experiment as jobs: so many at once, none twice, and each one's end is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.experiment import load_experiment
from orchestration.experiments import queue
from orchestration.experiments.arms import arm_runs
from orchestration.experiments.figures import FIGURES
from orchestration.experiments.queue import run_on_cluster, submit
from orchestration.jobs import client
from orchestration.jobs.client import Jobs
from tests.unit.orchestration.jobs.fake_ray import FakeRay


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(client, "_client", lambda address: fake)
    monkeypatch.setattr(client, "use_token", lambda: None)
    monkeypatch.setattr(queue, "LOOK_SECONDS", 0.0)
    return fake


def test_every_run_is_a_job_of_its_own_and_a_failure_holds_up_no_other(ray: FakeRay, tmp_path: Path) -> None:
    name, experiment = load_experiment("srt-vs-gold", FIGURES, seeds=1)
    runs = arm_runs(name, experiment, tmp_path)
    ray.ends = [("SUCCEEDED", None, 0), ("FAILED", None, 5), ("SUCCEEDED", None, 0)]
    said: list[str] = []
    outcomes = run_on_cluster(name, experiment, runs, Jobs("http://h:8265"), said.append, at_once=2, working_dir=None)
    assert [outcome.is_done for outcome in outcomes] == [True, False, True]
    assert outcomes[1].error is not None and outcomes[1].error.exit_code == 5
    assert [sent["metadata"][client.NAME] for sent in ray.sent] == [
        f"srt-vs-gold-{arm}-seed-0" for arm in ("srt", "gold", "random")
    ]
    entry = ray.sent[1]["entrypoint"]
    assert f"--run {tmp_path}/gold/seed-0" in entry and "voting.labels=ground_truth" in entry and "--resume" in entry


def test_no_more_than_so_many_run_at_once(ray: FakeRay, tmp_path: Path) -> None:
    name, experiment = load_experiment("srt-vs-gold", FIGURES, seeds=1)
    runs = arm_runs(name, experiment, tmp_path)
    most = 0

    def say(text: str) -> None:
        nonlocal most
        running = [job_id for job_id, job in ray.jobs.items() if job.status.value == "RUNNING"]
        most = max(most, len(running))
        if "submitted" in text and len(running) == 2 or len(ray.sent) == 3:
            for job_id in running:
                ray.end(job_id, "SUCCEEDED")

    outcomes = run_on_cluster(name, experiment, runs, Jobs("http://h:8265"), say, at_once=2, working_dir=None)
    assert most == 2 and all(outcome.is_done for outcome in outcomes) and len(ray.sent) == 3


def test_a_job_that_is_under_way_is_waited_for_and_not_sent_again(ray: FakeRay, tmp_path: Path) -> None:
    name, experiment = load_experiment("srt-vs-gold", FIGURES, seeds=1)
    runs, jobs = arm_runs(name, experiment, tmp_path)[:1], Jobs("http://h:8265")
    job = submit(name, experiment, runs[0], jobs, None)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        ray.end(job.id, "SUCCEEDED")

    [outcome] = run_on_cluster(name, experiment, runs, jobs, say, at_once=1, working_dir=None)
    assert outcome.is_done and len(ray.sent) == 1 and said[0] == f"srt seed 0: is job {job.id}"
