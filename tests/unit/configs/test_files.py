"""Presets in subfolders, and files that extend others: what is merged, what is replaced, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from configs.files import find_configuration, preset_names, read_configuration
from configs.load import load_config
from quorum.errors import ConfigError

BASE = {
    "run": {"dir": "runs/base", "num_steps": 7},
    "model": {"path": "m"},
    "data": {"train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]},
    "rollout": {"temperature": 0.7, "engine": {"name": "vllm", "options": {"block_size": 32}}},
    "voting": {"rule": "majority", "labels": {"name": "table", "options": {"path": "t.parquet"}}},
}


def write(directory: Path, name: str, tree: object) -> Path:
    path = directory / name
    path.write_text(yaml.safe_dump(tree))
    return path


def problem_of(source: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_preset_in_a_subfolder_goes_by_folder_and_name() -> None:
    assert "paper/qwen2.5-math-7b-dapo" in preset_names() and "srt" in preset_names()
    path, is_preset = find_configuration("paper/qwen2.5-math-7b-dapo")
    assert is_preset and path.is_file()
    assert load_config("paper/qwen2.5-math-7b-dapo").learner.kl.coefficient == 0.001


def test_a_mistyped_preset_of_a_subfolder_names_the_nearest_and_does_not_list_them_all() -> None:
    message = problem_of("paper/qwen2.5-math-7b-dap")
    assert "did you mean paper/qwen2.5-math-7b-dapo?" in message
    assert "paper/..." in message and "ttrl_compat" in message and message.count("paper/") == 3


def test_a_file_holds_only_what_differs_from_the_one_it_extends(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    tree = {"extends": "base.yaml", "run": {"dir": "runs/child"}, "data": {"train": [{"path": "c.jsonl"}]}}
    config = load_config(write(tmp_path, "child.yaml", tree))
    assert (config.run.dir, config.run.num_steps, config.rollout.temperature) == ("runs/child", 7, 0.7)
    assert [source.path for source in config.data.train] == ["c.jsonl"]  # lists are replaced whole


def test_a_plug_in_of_another_name_brings_its_own_options_and_one_of_the_same_name_merges(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)

    def child(**sections: object) -> object:
        return load_config(write(tmp_path, "child.yaml", {"extends": "base.yaml", **sections}))

    other = child(voting={"labels": {"name": "teacher", "options": {"num_completions": 4}}})
    assert other.voting.labels.options == {"num_completions": 4}  # type: ignore[attr-defined]
    bare = child(voting={"labels": "ground_truth"})
    assert (bare.voting.labels.name, bare.voting.labels.options) == ("ground_truth", {})  # type: ignore[attr-defined]
    same = child(rollout={"engine": {"name": "vllm", "options": {"seed": 1}}})
    assert same.rollout.engine.options == {"block_size": 32, "seed": 1}  # type: ignore[attr-defined]
    deepened = child(voting={"rule": {"options": {"weight": "x"}}})
    assert (deepened.voting.rule.name, deepened.voting.rule.options) == (  # type: ignore[attr-defined]
        "majority",
        {"weight": "x"},
    )


def test_a_file_may_extend_a_preset_and_a_preset_s_base_another(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", {"extends": "paper/rg-base", "run": {"dir": "runs/mine"}})
    config = load_config(path, ["learner.learning_rate=3e-6"])
    assert (config.model.path, config.rollout.completions_per_prompt) == ("Qwen/Qwen3-4B-Base", 32)
    assert (config.learner.kl.place, config.learner.kl.estimator) == ("loss", "k3")
    assert config.learner.learning_rate == 3e-6


def test_extends_is_refused_where_it_names_nothing_or_goes_in_a_circle(tmp_path: Path) -> None:
    assert "did you mean srt?" in problem_of(write(tmp_path, "a.yaml", {"extends": "srtt"}))
    assert "no such file beside it" in problem_of(write(tmp_path, "a.yaml", {"extends": "gone.yaml"}))
    assert "expected the name" in problem_of(write(tmp_path, "a.yaml", {"extends": ["srt"]}))
    write(tmp_path, "a.yaml", {"extends": "b.yaml"})
    assert "in a circle: b.yaml -> a.yaml -> b.yaml" in problem_of(write(tmp_path, "b.yaml", {"extends": "a.yaml"}))


def test_a_mistake_in_either_file_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", {**BASE, "rollout": {"temperatures": 1.0}})
    assert "rollout.temperature" in problem_of(write(tmp_path, "child.yaml", {"extends": "base.yaml"}))
    (tmp_path / "base.yaml").write_text("run: {dir: a, dir: b}")
    assert "base.yaml" in problem_of(tmp_path / "child.yaml")


def test_extends_leaves_no_trace_in_the_tree(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    tree, problems = read_configuration(write(tmp_path, "child.yaml", {"extends": "base.yaml"}))
    assert (tree, problems) == (BASE, [])
