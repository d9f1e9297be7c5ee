"""Whole runs whose teacher follows the policy as its moving average, with votes that the learner's scores weigh."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestration.watch.metrics import read_metrics
from quorum.types import Role
from tests.integration.run_helpers import (
    Finished,
    descendants,
    history,
    quorum,
    seconds_until_gone,
    start,
    wait_for_ledger,
)
from tests.integration.test_label_sources import PROMPTS, K, arguments, rows_of
from tests.integration.test_run import write_data

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

STEPS, TEACHER_K = 3, 4


def averaged(run: Path, data: Path) -> list[str]:
    return arguments(
        run,
        data,
        STEPS,
        f"voting.labels={{name: momentum, options: {{num_completions: {TEACHER_K}}}}}",
        "voting.rule={name: majority, options: {weight: self_certainty}}",
        "learner.average_decay=0.5",
        "learner.updates_per_step=2",
        "learner.old_logprobs=recompute",
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("average")
    write_data(directory / "data")
    return directory


@pytest.fixture(scope="module")
def averaged_run(root: Path) -> Finished:
    done = quorum(*averaged(root / "whole", root / "data"))
    assert done.code == 0, done.output[-3000:]
    return done


def test_the_teacher_samples_from_the_average_of_every_version(averaged_run: Finished, root: Path) -> None:
    """Checksums of its weights are compared at each publish; its samplers refuse groups of another version."""
    teachers = rows_of(root / "whole", Role.TEACHER)
    for step in range(STEPS):
        own = [row for row in teachers if row["step"] == step]
        spans = {span["version"] for row in own for c in row["completions"] for span in c["spans"]}
        assert len(own) == PROMPTS and spans == {step}


def test_scores_weigh_the_policys_votes_and_jurors_count_one(averaged_run: Finished, root: Path) -> None:
    for row in rows_of(root / "whole"):
        assert row["weights"] == row["self_certainties"] and len(row["weights"]) == K
        assert all(weight > 0 for weight in row["weights"]) and all(entropy > 0 for entropy in row["entropies"])
        assert len(row["jury"]) == TEACHER_K
        if row["pseudo_label"] is None:
            continue
        votes = [0.0] * len(row["sizes"])
        for cluster, weight in [*zip(row["cluster"], row["weights"], strict=True), *((j, 1.0) for j in row["jury"])]:
            if cluster >= 0:
                votes[cluster] += weight
        assert row["representatives"][votes.index(max(votes))] == row["pseudo_label"]


def test_a_step_takes_its_updates(averaged_run: Finished, root: Path) -> None:
    rows = read_metrics(root / "whole").to_pylist()
    assert [row["learn/num_updates"] for row in rows] == [2.0] * STEPS
    assert all(row["learn/num_skipped_updates"] == 0 for row in rows)


@pytest.mark.all
def test_killed_and_resumed_it_is_the_same_history(averaged_run: Finished, root: Path) -> None:
    run = root / "killed"
    process = start(*averaged(run, root / "data"))
    wait_for_ledger(run, 2 * PROMPTS, 250)
    pids = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    seconds_until_gone(pids, 20)
    done = quorum("train", "--resume", str(run))
    assert done.code == 0, done.output[-3000:]
    assert history(run) == history(root / "whole")
