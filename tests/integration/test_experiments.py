"""An experiment on the real stack: what runs on the actors of the run before is what runs on its own, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.yaml_text import write_yaml
from data.prepare.demo import TASK_OPTIONS
from tests.integration.exact_runs import assert_same
from tests.integration.run_helpers import history, quorum

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

SHARED = [
    "run.num_steps=2",
    "rollout.prompts_per_step=16",
    "rollout.completions_per_prompt=4",
    "rollout.num_samplers=1",
    "report.tensorboard=false",
]
DATA = {"path": "reasoning_gym:basic_arithmetic", "size": 24, "seed": 1000000, "task_options": TASK_OPTIONS}
FILE = {
    "title": "Two arms",
    "base": {"preset": "demo", "overrides": SHARED},
    "arms": {"srt": ["voting.rule=majority"], "gold": ["voting.labels=ground_truth", "learner.learning_rate=3e-4"]},
    "evaluation": {"data": [DATA], "completions": 4},
    "figures": {name: {"name": name, "options": {"arm": "gold"}} for name in ("gain", "final")},
}


def test_an_arm_on_the_actors_of_another_has_the_history_that_it_has_alone(tmp_path: Path) -> None:
    file, out = tmp_path / "two.yaml", tmp_path / "two"
    file.write_text(write_yaml(FILE))
    done = quorum("experiment", str(file), "--out", str(out))
    assert done.code == 0, done.output[-3000:]
    assert done.output.count("warm: samplers and ranks of the run before go on") == 1
    assert "starts cold" not in done.output
    warm, before, cold = out / "gold" / "seed-0", out / "srt" / "seed-0", tmp_path / "cold"

    alone = quorum("train", str(warm / "config.yaml"), f"run.dir={cold}")
    assert alone.code == 0, alone.output[-3000:]
    assert_same(warm, cold)
    assert history(before).weights != history(warm).weights, "both arms are the same run: nothing was compared"

    result = done.result
    rows = [json.loads(line) for line in (cold / "audit" / "eval.jsonl").read_text().splitlines()]
    accuracies = {row["step"]: row["eval/average_accuracy"] for row in rows}
    assert accuracies[0] > 0 and accuracies[2] > 0, "nothing was right: any figure would do"
    assert result["final"] == pytest.approx(accuracies[2], abs=1e-4)
    assert result["gain"] == pytest.approx(accuracies[2] - accuracies[0], abs=1e-4)
    assert (out / "two.md").is_file() and (out / "two.svg").is_file()

    again = quorum("experiment", str(file), "--out", str(out))
    assert again.code == 0 and again.output.count("done before") == 2
    assert again.result["final"] == result["final"]
