"""The presets of the miniatures: one per task, from the files that `data.prepare.miniatures` makes."""

from __future__ import annotations

import pytest

from configs.load import load_config, preset_names
from data.prepare.miniature_tasks import TASKS

PRESETS = [name for name in preset_names() if name.startswith("mini/") and name != "mini/base"]


def test_every_task_has_a_preset_and_every_preset_a_task() -> None:
    assert {name.removeprefix("mini/") for name in PRESETS} == set(TASKS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_miniature_trains_on_its_own_files_with_references_apart(name: str) -> None:
    config = load_config(name)
    folder = f"runs/miniatures/{name.removeprefix('mini/')}"
    assert config.model.path.endswith(f"{folder}/base")
    (train,), (test,) = config.data.train, config.evaluation.data
    for source, kind in ((train, "train"), (test, "test")):
        assert source.path.endswith(f"{folder}/{kind}.jsonl")
        assert source.references == f"{folder}/{kind}.references.jsonl"
        assert source.columns.id == "id"
    assert config.rollout.prompts_per_step * config.rollout.completions_per_prompt == 512
    assert config.learner.kl.coefficient == 0
