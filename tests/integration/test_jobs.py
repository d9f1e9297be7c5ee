"""Runs as jobs of a real Ray cluster on loopback: submitted, watched, scaled, stopped, and killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.checkpoint import latest_checkpoint
from orchestration.run_dir import read_info
from tests.integration.job_cluster import JobCluster, job_cluster, repository
from tests.integration.run_helpers import ROOT, history, wait_for_ledger

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

STEPS, PROMPTS, K = 6, 16, 8
ALL_JOBS = "import sys; from ray.job_submission import JobSubmissionClient as C; print(C(sys.argv[1]).list_jobs())"
PLANTED = "planted-s3cr3t-0123456789abcdef"


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    """A head that holds no actor and two workers; the nodes' environment has a secret, the clients' too."""
    with job_cluster(0, 4, 4, env={"WANDB_API_KEY": PLANTED, "HF_TOKEN": PLANTED[::-1]}) as running:
        yield running


def submit(run: Path, *overrides: str) -> list[str]:
    """Of `quorum`, for a small run on the demo's model."""
    return [
        "submit",
        "demo",
        f"run.dir={run}",
        f"model.path={ROOT / 'data/demo/base'}",
        f"run.num_steps={STEPS}",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        "rollout.num_samplers=1",
        "learner.num_ranks=1",
        "evaluation.data=[]",
        "checkpoint.every_steps=2",
        "report.tensorboard=false",
        "report.audit=false",
        f"--working-dir={repository()}",
        *overrides,
    ]


def test_a_killed_driver_is_resumed_while_another_run_is_scaled_and_stopped(
    cluster: JobCluster, tmp_path: Path
) -> None:
    """Two runs at once, which differ in nothing but in what happens to them, have one history."""
    killed, scaled = tmp_path / "killed", tmp_path / "scaled"
    following = cluster.start(*submit(killed, "--retries=2"))
    begun = cluster.quorum(*submit(scaled, "run.num_steps=400", "--no-wait"))
    assert begun.code == 0, begun.output
    wait_for_ledger(killed, 3 * PROMPTS, limit=200)
    os.kill(read_info(killed).driver_pid, signal.SIGKILL)

    wait_for_ledger(scaled, PROMPTS, limit=200)
    again = cluster.quorum(*submit(scaled))
    assert again.code == 2 and "quorum logs scaled --follow" in again.output, again.output
    more = cluster.quorum("scale", "scaled", "--samplers", "2")
    assert more.code == 0 and "2 samplers READY" in more.output, more.output
    shown = cluster.quorum("status")
    assert shown.code == 0 and "scaled" in shown.output and "running" in shown.output

    done = cluster.end(following, timeout=130)
    assert done.code == 0, done.output[-3000:]
    assert "was ended by SIGKILL; retry 1 of 2" in done.output and "RESULT" in done.output
    wait_for_ledger(scaled, STEPS * PROMPTS, limit=200)
    stopped = cluster.quorum("stop", "scaled")
    assert stopped.code == 0 and "stopped after" in stopped.output, stopped.output

    saved = latest_checkpoint(scaled)
    assert read_info(scaled).state == "interrupted" and saved is not None and saved[1].step >= STEPS
    assert read_info(killed).incarnation == 1
    ours, theirs = history(killed), history(scaled)
    assert len(ours.ledger) == STEPS * PROMPTS
    assert ours.ledger == [row for row in theirs.ledger if row.step < STEPS]
    assert ours.groups == theirs.groups[: len(ours.groups)]
    assert_planted_nowhere(cluster, tmp_path)


def assert_planted_nowhere(cluster: JobCluster, runs: Path) -> None:
    """What Ray tells of its jobs, every log of the cluster and both run directories."""
    # In a process of its own: Ray keeps the first token that it reads, for every cluster that comes after.
    asked = subprocess.run(
        [sys.executable, "-c", ALL_JOBS, cluster.url], env=cluster.env, capture_output=True, text=True, timeout=120
    )
    told = asked.stdout
    assert "quorum-killed-1" in told, asked.stderr[-2000:]
    secrets = [PLANTED, PLANTED[::-1], Path(cluster.env["RAY_AUTH_TOKEN_PATH"]).read_text()]
    assert not any(secret in told for secret in secrets)
    files = [*runs.rglob("*"), *cluster.folder.glob("n*/session_*/logs/**/*")]
    read = [file for file in files if file.is_file()]
    assert len(read) > 20
    holders = [str(file) for file in read if any(secret.encode() in file.read_bytes() for secret in secrets)]
    assert holders == []


def test_commands_say_what_is_wrong(cluster: JobCluster, tmp_path: Path) -> None:
    unknown = cluster.quorum("stop", "kiled")
    assert unknown.code == 2 and "no run 'kiled'" in unknown.output and "killed" in unknown.output
    env = {name: value for name, value in cluster.env.items() if name != "RAY_AUTH_TOKEN_PATH"}
    stranger = JobCluster(0, 0, tmp_path, env | {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": "w" * 40})
    refused = stranger.quorum("status")
    assert refused.code == 4 and "RAY_AUTH_TOKEN_PATH" in refused.output, refused.output
    leaked = cluster.quorum(*submit(tmp_path / PLANTED))
    assert leaked.code == 2 and "$WANDB_API_KEY" in leaked.output and PLANTED not in leaked.output
    assert not list(tmp_path.glob("planted*"))


def test_nobody_listens() -> None:
    from tests.integration.run_helpers import quorum

    done = quorum("status", "--address", "http://127.0.0.1:9", timeout=60)
    assert done.code == 4 and "is not reached" in done.output
