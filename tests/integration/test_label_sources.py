"""Whole runs on the real stack with labels from elsewhere: a teacher, the other view, a table, the references."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestration.group_table import read_groups
from orchestration.ledger import read_ledger
from orchestration.watch.metrics import read_metrics
from quorum.types import Role
from tests.integration.run_helpers import (
    Finished,
    descendants,
    finish,
    history,
    quorum,
    seconds_until_gone,
    start,
    wait_for_ledger,
)
from tests.integration.test_exits import find
from tests.integration.test_run import write_data

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

PROMPTS, K, TEACHER_K, TRAINED, ROUNDS = 16, 8, 8, 4, 6


def arguments(run: Path, data: Path, steps: int, *overrides: str) -> list[str]:
    return [
        "train",
        "demo",
        f"run.dir={run}",
        f"run.num_steps={steps}",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        "rollout.num_samplers=1",
        f"data.train=[{{path: {data / 'train.jsonl'}}}]",
        "evaluation.data=[]",
        "checkpoint.every_steps=2",
        *overrides,
    ]


def taught(run: Path, data: Path, steps: int, *overrides: str) -> list[str]:
    """Labels by the starting policy on a sampler of its own, dynamic sampling, votes of 8 and training on 4."""
    return arguments(
        run,
        data,
        steps,
        f"voting.labels={{name: teacher, options: {{num_completions: {TEACHER_K}}}}}",
        "voting.elect.min_agreement=0.75",
        f"voting.batch.max_rounds={ROUNDS}",
        f"voting.train={{num_completions: {TRAINED}, choose: stratified}}",
        *overrides,
    )


def rows_of(run: Path, role: Role = Role.TRAIN) -> list[dict[str, Any]]:
    return read_groups(run, role=role).to_pylist()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources")
    write_data(directory / "data")
    write_data(directory / "wrong", corrupted=True)
    return directory


@pytest.fixture(scope="module")
def taught_run(root: Path) -> Finished:
    """Its voting replica is killed after the first step."""
    began = time.monotonic()
    process = start(*taught(root / "taught", root / "data", 3))
    wait_for_ledger(root / "taught", PROMPTS, 200)
    os.kill(find(descendants(process.pid), "ray::Voter"), signal.SIGKILL)
    done = finish(process, began)
    assert done.code == 0, done.output[-3000:]
    return done


def test_a_teacher_makes_the_labels_and_membership_of_its_winning_cluster_is_paid(
    taught_run: Finished, root: Path
) -> None:
    rows, teachers = rows_of(root / "taught"), rows_of(root / "taught", Role.TEACHER)
    assert len(teachers) == len(rows)
    assert {len(row["completions"]) for row in teachers} == {TEACHER_K}
    assert {row["provenance"] for row in rows if row["pseudo_label"] is not None} == {"teacher"}
    for row in rows:
        votes = Counter(number for number in row["jury"] if number >= 0)
        if row["rewards"] is None:
            assert row["end_state"] in ("dropped:below_threshold", "dropped:no_label")
            continue
        [(winner, size)] = votes.most_common(1)
        assert row["agreement"] == pytest.approx(size / TEACHER_K) and row["agreement"] >= 0.75
        assert row["rewards"] == [float(number == winner) for number in row["cluster"]]
        assert sum(row["train_mask"]) == TRAINED


def test_dropped_groups_are_drawn_again_and_stand_in_the_ledger(taught_run: Finished, root: Path) -> None:
    ends = Counter((row.step, row.end_state.value.partition(":")[0]) for row in read_ledger(root / "taught"))
    assert {step: ends[step, "trained"] for step in range(3)} == {0: PROMPTS, 1: PROMPTS, 2: PROMPTS}
    assert sum(ends[step, "dropped"] for step in range(3)) > 0
    metrics = read_metrics(root / "taught").to_pylist()
    assert max(row["vote/num_rounds"] for row in metrics) > 1
    assert all(row["learn/num_tokens"] > 0 for row in metrics)


def test_a_voting_replicas_death_is_told_and_the_run_goes_on(taught_run: Finished) -> None:
    assert "voting replica voter-0 died" in taught_run.output
    assert "voter-1 takes its place" in taught_run.output


@pytest.mark.all
def test_a_taught_run_killed_and_resumed_is_the_same_history(taught_run: Finished, root: Path) -> None:
    run = root / "killed"
    process = start(*taught(run, root / "wrong", 3))
    wait_for_ledger(run, PROMPTS, 200)
    pids = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    seconds_until_gone(pids, 20)
    done = quorum("train", "--resume", str(run))
    assert done.code == 0, done.output[-3000:]
    assert history(run) == history(root / "taught")


@pytest.mark.all
def test_views_label_each_other(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "data" / "train.jsonl").read_text().splitlines()]
    data = root / "views"
    data.mkdir()
    with open(data / "train.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            turned = "Calculate " + " + ".join(
                reversed(row["prompt"].removeprefix("Calculate ").rstrip(".").split(" + "))
            )
            file.write(json.dumps({"prompt": row["prompt"], "other": turned + "."}) + "\n")
    source = f"data.train=[{{path: {data / 'train.jsonl'}, columns: {{paraphrase: other}}}}]"
    done = quorum(*arguments(root / "cross", data, 1, "voting.labels=cross_view", source))
    assert done.code == 0, done.output[-3000:]
    groups = {row["group_id"]: row for row in rows_of(root / "cross")}
    for group_id, row in groups.items():
        other = groups[group_id ^ 1]
        assert len(row["jury"]) == K
        assert sorted(row["representatives"]) == sorted(other["representatives"])
        answers = [row["representatives"][number] if number >= 0 else None for number in row["jury"]]
        theirs = [other["representatives"][number] if number >= 0 else None for number in other["cluster"]]
        assert answers == theirs


@pytest.mark.all
def test_labels_made_by_a_model_are_trained_on_whatever_the_references_say(root: Path) -> None:
    data = root / "data" / "train.jsonl"
    made = quorum(
        "label", "data/demo/base", str(data), f"evaluation.data.0.size={2 * PROMPTS}", "--n", "16", "--preset", "demo",
        "--out", str(root / "labels"),
    )  # fmt: skip
    assert made.code == 0, made.output[-3000:]
    histories = []
    for name in ("data", "wrong"):
        run = root / f"table-{name}"
        table = f"voting.labels={{name: table, options: {{path: {root / 'labels' / 'labels.parquet'}, missing: drop}}}}"
        source = f"data.train=[{{path: {root / name / 'train.jsonl'}, size: {2 * PROMPTS}}}]"
        done = quorum(*arguments(run, root / name, 2, table, source))
        assert done.code == 0, done.output[-3000:]
        assert {row["provenance"] for row in rows_of(run) if row["pseudo_label"] is not None} == {"table"}
        histories.append(history(run))
    assert histories[0] == histories[1]
