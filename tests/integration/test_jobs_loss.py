"""A driver's node is lost with the driver; a stopped run goes on by name; a plain `ray job submit` works."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.checkpoint import latest_checkpoint
from orchestration.run_dir import read_info
from rollout import watchdog
from tests.integration.job_cluster import RAY, JobCluster, job_cluster
from tests.integration.run_helpers import ROOT, history, wait_for_ledger
from tests.integration.test_jobs import PROMPTS, STEPS, submit

pytestmark = [pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    with job_cluster(0, 4, 4) as running:
        yield running


def test_a_plain_ray_job_and_a_stopped_and_resumed_run_have_one_history(cluster: JobCluster, tmp_path: Path) -> None:
    plain, stopped = tmp_path / "plain", tmp_path / "stopped"
    words = [word for word in submit(plain)[1:] if not word.startswith("--")]
    command = [RAY, "job", "submit", "--working-dir", str(ROOT), "--", "python", "-m", "orchestration", "train"]
    done = subprocess.run(
        [*command, *words, "cluster.address=auto"], env=cluster.env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    following = cluster.start(*submit(stopped, "run.num_steps=400"))
    wait_for_ledger(stopped, 3 * PROMPTS, limit=200)
    assert cluster.quorum("stop", "stopped").code == 0
    assert cluster.end(following).code == 143
    saved = latest_checkpoint(stopped)
    assert saved is not None
    num_steps = max(STEPS, saved[1].step + 1)
    resumed = cluster.quorum("resume", "stopped", f"run.num_steps={num_steps}", f"--working-dir={ROOT}")
    assert resumed.code == 0, resumed.output[-3000:]
    ours, theirs = history(plain), history(stopped)
    assert len(theirs.ledger) == num_steps * PROMPTS
    assert ours.ledger == [row for row in theirs.ledger if row.step < STEPS]
    assert ours.groups == theirs.groups[: len(ours.groups)]


def test_a_run_goes_on_when_the_node_of_its_driver_is_lost(cluster: JobCluster, tmp_path: Path) -> None:
    run = tmp_path / "lost"
    following = cluster.start(*submit(run, "--driver-cpus=1", "--retries=2"))
    wait_for_ledger(run, 3 * PROMPTS, limit=250)
    driver = read_info(run).driver_pid
    (index,) = [index for index, mark in cluster.marks.items() if driver in watchdog.marked(mark)]
    assert index > 0, "a driver that asks for a CPU is on no head without any"
    cluster.kill_node(index)
    done = cluster.end(following, timeout=300)
    assert done.code == 0, done.output[-3000:]
    assert "was lost" in done.output and "submitted again as quorum-lost-2" in done.output
    assert len(history(run).ledger) == STEPS * PROMPTS
