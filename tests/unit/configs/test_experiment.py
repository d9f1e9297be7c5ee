"""Files of experiments: what they say reaches every run alike, and what is wrong in them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.experiment import EXPERIMENT_DIR, experiment_names, load_experiment
from configs.identity import result_differences, result_hash
from configs.yaml_text import write_yaml
from orchestration.experiments.figures import FIGURES
from orchestration.registries import registries
from quorum.errors import ConfigError

GOOD = {
    "title": "a comparison",
    "base": {"preset": "demo", "overrides": ["run.num_steps=2"]},
    "arms": {"srt": ["voting.rule=majority"], "gold": ["voting.labels=ground_truth"]},
    "seeds": 2,
    "evaluation": {"completions": 4, "temperatures": [0.6, 0.0], "every_steps": 1},
    "figures": {"won": {"name": "gain", "options": {"arm": "srt"}}},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(write_yaml(GOOD | changes))
    return path


@pytest.mark.parametrize("name", experiment_names())
def test_every_run_of_every_shipped_experiment_has_a_valid_configuration(name: str) -> None:
    found, experiment = load_experiment(name, FIGURES)
    assert found == name and experiment.figures
    hashes = {result_hash(experiment.config_of(arm, 0, Path("x"), registries())) for arm in experiment.arms}
    assert len(hashes) == len(experiment.arms), "two arms are the same run"


def test_all_arms_share_base_and_manifest_and_differ_in_their_own_words_alone(tmp_path: Path) -> None:
    name, experiment = load_experiment(write(tmp_path), FIGURES, overrides=["rollout.prompts_per_step=8"], seeds=3)
    srt, gold = (experiment.config_of(arm, 1, tmp_path / arm) for arm in experiment.arms)
    assert (name, experiment.seeds) == ("mine", 3)
    assert srt.evaluation == gold.evaluation
    assert (srt.evaluation.completions_per_prompt, srt.evaluation.temperature, srt.evaluation.every_steps) == (
        4,
        0.6,
        1,
    )
    assert srt.run.seed == gold.run.seed == 1
    assert srt.rollout.prompts_per_step == gold.rollout.prompts_per_step == 8
    assert result_differences(srt, gold) == ["voting.labels.name"]


def test_a_manifest_with_data_replaces_the_bases(tmp_path: Path) -> None:
    data = [{"path": "a.jsonl", "size": 5}, {"path": "b.jsonl"}]
    _, experiment = load_experiment(write(tmp_path, evaluation={"data": data}), FIGURES)
    sources = experiment.config_of("srt", 0, tmp_path / "run").evaluation.data
    assert [(source.path, source.size) for source in sources] == [("a.jsonl", 5), ("b.jsonl", None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "did you mean arms"),
        ({"arms": {}}, "arms: "),
        ({"arms": {"../up": []}}, "names a directory: use small letters"),
        ({"arms": {"srt": ["evaluation.temperature=0"]}}, "the experiment sets evaluation itself"),
        ({"base": {"preset": "demo", "overrides": ["run.seed=3"]}}, "base.overrides.*sets run.seed itself"),
        ({"figures": {"won": {"name": "gain", "options": {"arm": "gild"}}}}, "there is no arm 'gild'"),
        ({"figures": {"won": {"name": "gian", "options": {"arm": "srt"}}}}, "did you mean 'gain'"),
        ({"figures": {"won": {"name": "gain", "options": {"arms": "srt"}}}}, "figures.won.options.arms: unknown key"),
        ({"seeds": 0}, "seeds: .* got 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, **changes), FIGURES)


def test_an_arms_wrong_override_is_reported_with_its_arm(tmp_path: Path) -> None:
    _, experiment = load_experiment(write(tmp_path, arms={"srt": ["voting.rul=majority"]}), FIGURES)
    with pytest.raises(ConfigError, match="arm srt: .*did you mean voting.rule"):
        experiment.config_of("srt", 0, tmp_path / "run")


def test_an_unknown_experiment_names_the_nearest() -> None:
    nearby = experiment_names()[0][:-1]
    with pytest.raises(ConfigError, match=f"did you mean {experiment_names()[0]}"):
        load_experiment(nearby, FIGURES)
    assert (EXPERIMENT_DIR / f"{experiment_names()[0]}.yaml").is_file()
