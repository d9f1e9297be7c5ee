"""Runs taken apart on the real stack: a replay equals its run, and rollout and training done apart equal one step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.cli.main import load_command
from orchestration.group_table import read_groups
from orchestration.ledger import read_ledger
from orchestration.run_dir import read_info
from orchestration.watch.metrics import read_metrics
from quorum.types import EndState
from tests.integration.run_helpers import Finished, history, quorum
from tests.integration.test_run import write_data

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

STEPS, PROMPTS, K = 3, 8, 8


def arguments(run: Path, data: Path, *overrides: str) -> list[str]:
    return [
        "train",
        "demo",
        f"run.dir={run}",
        f"run.num_steps={STEPS}",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        "rollout.num_samplers=1",
        "learner.num_ranks=1",
        f"data.train=[{{path: {data / 'train.jsonl'}}}]",
        f"evaluation.data=[{{path: {data / 'test.jsonl'}}}]",
        "evaluation.completions_per_prompt=2",
        "checkpoint.every_steps=1",
        f"checkpoint.keep={STEPS}",
        "report.tensorboard=false",
        *overrides,
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apart")


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, Finished]:
    """An ordinary run, one that only rolls out, and, with the data gone, one that only learns from what that one
    left."""
    data = write_data(root / "data", num_held_out=4)
    modes = {
        "ordinary": ["evaluation.data=[]"],
        "rolled": ["run.mode=rollout_only", "run.num_steps=2"],
        "learned": ["run.mode=train_only", f"data.groups={root / 'rolled'}", "run.num_steps=1"],
    }
    done = {}
    for name, overrides in modes.items():
        if name == "learned":
            shutil.rmtree(data)
        done[name] = quorum(*arguments(root / name, data, *overrides))
        assert done[name].code == 0, done[name].output[-3000:]
    return done


def test_rollout_only_votes_and_pays_but_trains_nothing(runs: dict[str, Finished], root: Path) -> None:
    rolled = root / "rolled"
    rows = read_ledger(rolled)
    assert len(rows) == 2 * PROMPTS and all(row.versions == (0,) for row in rows)
    assert {row.end_state for row in rows if row.reward_hash} == {EndState.VOTE_ONLY}
    table = read_groups(rolled)
    assert set(table.column("end_state").to_pylist()) >= {"dropped:vote_only"}
    assert any(sum(rewards) > 0 for rewards in table.column("rewards").to_pylist() if rewards)
    metrics = read_metrics(rolled).to_pylist()
    assert [row["learn/num_updates"] for row in metrics[:2]] == [0.0, 0.0]
    assert sum(row.get("eval/average_accuracy") is not None for row in metrics) == 1, "the weights stay: once is enough"
    assert not (rolled / "model").exists() and read_info(rolled).state == "done"
    assert not list(rolled.glob("checkpoints/*/learner"))
    assert "Nothing was learned" in " ".join(runs["rolled"].output.split())


def test_rollout_and_training_done_apart_equal_one_step_of_an_ordinary_run(
    runs: dict[str, Finished], root: Path
) -> None:
    ordinary = [row for row in read_ledger(root / "ordinary") if row.step == 0]
    rolled = [row for row in read_ledger(root / "rolled") if row.step == 0]
    assert [replace(row, end_state=EndState.TRAINED) if row.reward_hash else row for row in rolled] == ordinary
    assert read_ledger(root / "learned") == ordinary

    def learner_files(run: str) -> dict[str, str]:
        manifest = root / run / "checkpoints" / "step-000001" / "learner" / "manifest.json"
        return dict(json.loads(manifest.read_text())["files"])

    assert learner_files("learned") == learner_files("ordinary"), "weights and optimizer state, bit for bit"
    groups = {run: history(root / run).groups[:PROMPTS] for run in ("learned", "ordinary")}
    assert groups["learned"] == groups["ordinary"]


def test_train_only_says_what_it_leaves_out_and_exports_its_model(runs: dict[str, Finished], root: Path) -> None:
    output = " ".join(runs["learned"].output.split())
    assert "nothing is generated" in output and "no evaluation without samplers" in output
    assert (root / "learned" / "model" / "model.safetensors").is_file()
    assert not list((root / "learned" / "groups").glob("*.arrow"))
    assert "quorum train" not in runs["learned"].output


def test_a_replay_of_several_steps_equals_the_next_checkpoint_bit_for_bit(
    runs: dict[str, Finished], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (root / "ordinary").rglob("*"))
    load_command("replay").main([str(root / "ordinary"), "--steps", "1..3"], standalone_mode=False)
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1].removeprefix("RESULT "))
    assert result["equal"] is True and result["weights_compared"] is True and result["num_updates"] == 2
    assert result["num_differing_tensors"] == result["num_differing_votes"] == 0 < result["num_tensors"]
    assert "EQUAL" in out and "DIFFERENT" not in out
    rows = [line for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 2 and all(row.count(" =") >= 4 for row in rows), "loss, norm, entropy, tokens: the same numbers"
    after = sorted((path, path.stat().st_mtime_ns) for path in (root / "ordinary").rglob("*"))
    assert after == before, "a replay changes nothing of its run"


@pytest.mark.all
def test_a_replay_with_another_algorithm_shows_the_figures_of_both(
    runs: dict[str, Finished], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the base model, of a run that had no samplers."""
    words = [str(root / "learned"), "--step", "0", "--algorithm", "grpo", "--set", "learner.learning_rate=3e-4"]
    load_command("replay").main(words, standalone_mode=False)
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1].removeprefix("RESULT "))
    assert result["changed"] == ["learner.algorithm.name", "learner.learning_rate"] and result["equal"] is None
    assert "changed on purpose (learner.algorithm.name, learner.learning_rate)" in captured.out
    assert result["weights_compared"] is False and result["num_differing_votes"] == 0
    assert " > " in captured.out.splitlines()[1], "the loss was another one"
