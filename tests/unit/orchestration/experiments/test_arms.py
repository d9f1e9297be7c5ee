"""Where the runs of an experiment stand, and what living actors cannot take over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.experiment import load_experiment
from configs.load import load_config
from orchestration.experiments.arms import ArmRun, arm_runs
from orchestration.experiments.figures import FIGURES
from orchestration.experiments.runner import run_all
from orchestration.experiments.warm import changed_fields
from orchestration.run_dir import RunDir
from quorum.errors import ConfigError


def runs_in(folder: Path, *overrides: str, seeds: int = 2) -> list[ArmRun]:
    name, experiment = load_experiment("srt-vs-gold", FIGURES, overrides=overrides, seeds=seeds)
    return arm_runs(name, experiment, folder)


def leave(run: ArmRun, state: str) -> None:
    """A run directory as a driver that ended left it."""
    made = RunDir.create(run.config, "hash")
    made.set_state(state)
    made.close()


def test_every_arm_has_its_first_seed_before_one_has_its_second(tmp_path: Path) -> None:
    found = [(run.arm, run.seed) for run in runs_in(tmp_path)]
    assert found == [(arm, seed) for seed in (0, 1) for arm in ("srt", "gold", "random")]
    assert runs_in(tmp_path)[3].path == tmp_path / "srt" / "seed-1"


def test_a_run_is_new_then_begun_then_done(tmp_path: Path) -> None:
    run = runs_in(tmp_path)[0]
    assert run.standing() == "new"
    leave(run, "interrupted")
    assert run.standing() == "begun"
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(info | {"state": "done"}))
    assert run.standing() == "done"


@pytest.mark.parametrize("word", ["learner.learning_rate=1e-3", "run.num_steps=3", "data.train.0.size=100"])
def test_a_directory_of_another_configuration_is_refused_by_field(tmp_path: Path, word: str) -> None:
    leave(runs_in(tmp_path)[0], "done")
    other = runs_in(tmp_path, word)
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        run_all(other, lambda text: None)


def test_operation_may_differ_from_the_run_that_is_there(tmp_path: Path) -> None:
    leave(runs_in(tmp_path)[0], "done")
    assert runs_in(tmp_path, "rollout.num_samplers=1")[0].standing() == "done"


def test_a_run_that_is_being_driven_is_not_taken(tmp_path: Path) -> None:
    run = runs_in(tmp_path)[0]
    made = RunDir.create(run.config, "hash")
    with pytest.raises(ConfigError, match="being driven by another process"):
        run.standing()
    made.close()


def test_runs_that_are_done_start_nothing(tmp_path: Path) -> None:
    found = runs_in(tmp_path, seeds=1)
    for run in found:
        leave(run, "done")
    said: list[str] = []
    outcomes = run_all(found, said.append)
    assert all(outcome.is_done for outcome in outcomes) and len(outcomes) == 3
    assert said == [f"{run.name}: done before ({i} of 3)" for i, run in enumerate(found, 1)]


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("voting.rule=random", []),
        ("run.seed=5", []),
        ("learner.learning_rate=1e-3", []),
        ("rollout.temperature=0.5", []),
        ("rollout.dtype=bfloat16", ["rollout.dtype"]),
        ("rollout.max_completion_tokens=32", ["max_model_len"]),
        ("learner.zero_stage=3", ["learner.zero_stage"]),
        ("model.path=other", ["model"]),
        ("deadlines.vote_seconds=200", ["deadlines"]),
    ],
)
def test_what_processes_were_started_with_makes_a_start_cold(word: str, fields: list[str]) -> None:
    assert changed_fields(load_config("demo"), load_config("demo", [word])) == fields
