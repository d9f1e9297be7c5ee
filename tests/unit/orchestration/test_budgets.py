"""What a run learned by running out of memory: halved once, remembered, and given up when the user changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import RunConfig
from orchestration.budgets import FILE_NAME, budget_note, learn_from_out_of_memory, with_learned_budgets
from quorum.errors import DataError, LearnerOutOfMemory

OUT = LearnerOutOfMemory("rank 0 ran out of memory")


def config(budget: int) -> RunConfig:
    sections = {"run": {"dir": "r"}, "model": {"path": "m"}, "data": {"train": [{"path": "p"}]}}
    return RunConfig.model_validate({**sections, "learner": {"max_tokens_per_micro_batch": budget}})


def budget_of(found: RunConfig) -> int:
    return found.learner.max_tokens_per_micro_batch


def test_the_budget_is_halved_and_a_later_resume_takes_the_half(tmp_path: Path) -> None:
    assert with_learned_budgets(config(2048), tmp_path) == config(2048)
    assert budget_note(config(2048), tmp_path) == []
    assert "halved from 2048 to 1024" in learn_from_out_of_memory(tmp_path, config(2048), "cuda", OUT)
    assert budget_of(with_learned_budgets(config(2048), tmp_path)) == 1024
    assert "1024, not 2048" in budget_note(config(2048), tmp_path)[0]


def test_a_second_time_ends_with_advice(tmp_path: Path) -> None:
    learn_from_out_of_memory(tmp_path, config(2048), "cuda", OUT)
    with pytest.raises(LearnerOutOfMemory) as caught:
        learn_from_out_of_memory(tmp_path, with_learned_budgets(config(2048), tmp_path), "cuda", OUT)
    assert "halved before, to 1024" in caught.value.__notes__[-1]
    assert "gradient_checkpointing" in caught.value.__notes__[-1]


def test_a_budget_that_the_user_changed_counts_instead(tmp_path: Path) -> None:
    learn_from_out_of_memory(tmp_path, config(2048), "cuda", OUT)
    assert with_learned_budgets(config(4096), tmp_path) == config(4096)
    assert "halved from 4096 to 2048" in learn_from_out_of_memory(tmp_path, config(4096), "cuda", OUT)
    assert budget_of(with_learned_budgets(config(4096), tmp_path)) == 2048


def test_on_a_cpu_the_budget_in_force_is_halved(tmp_path: Path) -> None:
    assert "halved from 2048 to 1024" in learn_from_out_of_memory(tmp_path, config(16384), "cpu", OUT)
    assert budget_of(with_learned_budgets(config(16384), tmp_path)) == 1024


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"configured": 20')
    with pytest.raises(DataError, match="remove it"):
        with_learned_budgets(config(20), tmp_path)
