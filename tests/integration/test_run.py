"""Whole runs on the real stack: Ray, two vLLM samplers, two ZeRO ranks, as a user starts them.

Four runs of one configuration should be one history: uninterrupted; with one sampler and corrupted reference
answers; killed with -9 and resumed. They are compared bit for bit.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from orchestration.group_table import read_groups
from orchestration.run_dir import read_info
from orchestration.watch.metrics import read_metrics
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

pytestmark = [pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(600)]

STEPS, PROMPTS, K = 8, 64, 16
AFTER_KILL_SECONDS = 20.0
"""Stated bound: after kill -9 of the driver every process of the run is gone within this time."""


def write_data(path: Path, *, seed: int, size: int, corrupted: bool = False) -> Path:
    """Demo prompts with reference answers as JSONL; corrupted ones are wrong for every row."""
    from tests.integration.demo_data import demo_rows

    with open(path, "w", encoding="utf-8") as file:
        for row in demo_rows(seed=seed, size=size):
            answer = "-1" if corrupted else row["answer"]
            file.write(json.dumps({"prompt": row["prompt"], "answer": answer}) + "\n")
    return path


def arguments(root: Path, name: str, *overrides: str) -> list[str]:
    return [
        "train",
        "demo",
        f"run.dir={root / name}",
        f"run.num_steps={STEPS}",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        f"data.train=[{{path: {root / 'train.jsonl'}}}]",
        f"evaluation.data=[{{path: {root / 'test.jsonl'}}}]",
        "evaluation.completions_per_prompt=8",
        "checkpoint.every_steps=2",
        *overrides,
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    write_data(directory / "train.jsonl", seed=11, size=512)
    write_data(directory / "test.jsonl", seed=12, size=100)
    return directory


@pytest.fixture(scope="module")
def baseline(root: Path) -> Finished:
    """The uninterrupted run: two samplers, two ranks."""
    done = quorum(*arguments(root, "baseline"))
    assert done.code == 0, done.output[-3000:]
    return done


def test_a_run_improves_the_tiny_model_without_labels(baseline: Finished) -> None:
    result = baseline.result
    assert result["accuracy_after"] > result["accuracy_before"] + 0.015
    assert result["majority_after"] >= result["majority_before"] - 0.03


def test_a_run_leaves_what_the_docs_promise(baseline: Finished, root: Path) -> None:
    run = root / "baseline"
    for name in ("config.yaml", "run.json", "metrics.jsonl", "ledger.jsonl", "report.html", "model/config.json"):
        assert (run / name).is_file(), name
    assert read_info(run).state == "done"
    assert read_groups(run).num_rows == STEPS * PROMPTS
    assert (run / "checkpoints" / "latest").read_text().strip() == f"step-{STEPS:06d}"
    assert list((run / "groups").glob("*.parquet"))
    assert not list((run / "groups").glob("*.arrow")), "streams of closed steps are removed"


def test_sampler_and_learner_agree_on_every_step(baseline: Finished, root: Path) -> None:
    rows = [row for row in read_metrics(root / "baseline").to_pylist() if row["learn/num_updates"]]
    assert len(rows) == STEPS
    assert max(row["sync/logprob_gap_mean"] for row in rows) < 0.02
    assert all(row["sync/checked_tensors"] > 0 for row in rows), "checksums compared on both samplers each step"


def test_the_time_split_sums_to_the_step(baseline: Finished, root: Path) -> None:
    for row in read_metrics(root / "baseline").to_pylist():
        if row.get("time/step_seconds") is None:
            continue
        parts = sum(row[f"time/{name}_seconds"] for name in ("rollout", "vote", "learn", "sync", "wait"))
        assert parts == pytest.approx(row["time/step_seconds"], abs=1e-6)


def test_the_final_model_loads_in_transformers(baseline: Finished, root: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(root / "baseline" / "model")
    tokenizer = AutoTokenizer.from_pretrained(root / "baseline" / "model")
    row = read_groups(root / "baseline", step=STEPS - 1).to_pylist()[0]
    assert tokenizer(row["prompt_text"])["input_ids"] == row["prompt_token_ids"]
    assert model.num_parameters() > 0


def test_one_sampler_and_corrupted_references_give_the_same_history(baseline: Finished, root: Path) -> None:
    write_data(root / "train.jsonl", seed=11, size=512, corrupted=True)
    try:
        done = quorum(*arguments(root, "one-sampler", "rollout.num_samplers=1"))
    finally:
        write_data(root / "train.jsonl", seed=11, size=512)
    assert done.code == 0, done.output[-3000:]
    ours, theirs = history(root / "one-sampler"), history(root / "baseline")
    assert ours.ledger == theirs.ledger
    assert ours.groups == theirs.groups
    assert ours.weights == theirs.weights
    metrics = [
        row for row in read_metrics(root / "one-sampler").to_pylist() if row.get("audit/label_accuracy") is not None
    ]
    assert metrics and max(row["audit/label_accuracy"] for row in metrics) == 0.0, (
        "the audit did read the corrupted file"
    )


def test_kill_9_and_resume_give_the_same_history(baseline: Finished, root: Path) -> None:
    run = root / "killed"
    process = start(*arguments(root, "killed"))
    try:
        wait_for_ledger(run, 5 * PROMPTS, limit=240)
        pids = descendants(process.pid)
        assert len(pids) > 6, "samplers, engines, ranks, voters and Ray run below the driver"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        seconds_until_gone(pids, AFTER_KILL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert read_info(run).state == "running", "a killed driver cannot say that it ended"
    generated = read_groups(run).num_rows

    began = time.monotonic()
    resumed = finish(start("train", "--resume", str(run)), began)
    assert resumed.code == 0, resumed.output[-3000:]
    ours, theirs = history(run), history(root / "baseline")
    assert ours.ledger == theirs.ledger
    assert ours.groups == theirs.groups
    assert ours.weights == theirs.weights
    recovered = sum(row["rollout/num_recovered"] or 0 for row in read_metrics(run).to_pylist())
    assert recovered >= generated - 4 * PROMPTS > 0, "finished groups are read from the log, not generated again"
