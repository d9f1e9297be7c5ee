"""A miniature's files: prompts apart from answers, test prompts apart from training, the same seed the same files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from data.prepare.miniature_tasks import TASKS, is_held_out
from data.prepare.miniatures import distinct_problems, main, trace_drawer
from quorum.errors import DataError

FILES = ("train.jsonl", "train.references.jsonl", "test.jsonl", "test.references.jsonl")


def make(out: Path, *arguments: str) -> dict[str, bytes]:
    main(["count", str(out), "--steps", "0", "--train-prompts", "300", "--test-prompts", "60", *arguments])
    return {file.name: file.read_bytes() for file in out.iterdir()}


def rows(content: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in content.splitlines()]


def test_answers_lie_apart_from_prompts_and_are_joined_by_id(tmp_path):
    files = make(tmp_path)
    assert set(files) == set(FILES)
    for name, size in (("train", 300), ("test", 60)):
        prompts, references = rows(files[f"{name}.jsonl"]), rows(files[f"{name}.references.jsonl"])
        assert len(prompts) == len(references) == size
        assert {tuple(row) for row in prompts} == {("id", "prompt")}
        assert {tuple(row) for row in references} == {("id", "answer")}
        answers = {row["id"]: row["answer"] for row in references}
        for row in prompts:
            wanted, row_of_digits = row["prompt"].removeprefix("Count ").removesuffix(".").split(": ")
            assert answers[row["id"]] == str(row_of_digits.count(wanted))


def test_no_prompt_is_in_both_sets_and_none_twice(tmp_path):
    files = make(tmp_path)
    train, test = ([row["prompt"] for row in rows(files[name])] for name in ("train.jsonl", "test.jsonl"))
    assert len(set(train)) == 300 and len(set(test)) == 60
    assert set(train).isdisjoint(test)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    first = make(tmp_path / "first")
    assert make(tmp_path / "again") == first
    assert make(tmp_path / "other", "--seed", "1") != first


@pytest.mark.parametrize("name", TASKS)
def test_traces_to_learn_from_are_never_about_held_out_prompts(name):
    draw, rng = trace_drawer(TASKS[name], 0), random.Random(0)
    prompts = [draw(rng, 0.1)[0] for _ in range(400)]
    assert not any(map(is_held_out, prompts))


@pytest.mark.parametrize("name", TASKS)
def test_every_level_has_enough_prompts(name):
    for level in range(len(TASKS[name].lengths)):
        for held_out, size in ((False, 1500), (True, 200)):
            assert len(distinct_problems(TASKS[name], level, size, 0, held_out=held_out)) == size


def test_more_prompts_than_there_are_is_refused_by_number():
    with pytest.raises(DataError, match=r"9000 training prompts wanted, this level has about [56]\d{3}; ask for fewer"):
        distinct_problems(TASKS["walk"], 0, 9000, 0, held_out=False)


def test_a_level_that_does_not_exist_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["count", str(tmp_path), "--level", "9"])
    assert "count has levels 0 to 1" in capsys.readouterr().err


@pytest.mark.stack
def test_the_base_model_is_the_same_for_the_same_seed_and_loads(tmp_path):
    pytest.importorskip("transformers")
    from configs.schema import ModelSection
    from data.model_files import check_model_dir, load_tokenizer

    short = ("--steps", "2", "--batch-size", "4", "--eval-prompts", "2", "--threads", "1")
    weights = []
    for name in ("first", "again"):
        main(["walk", str(tmp_path / name), "--train-prompts", "10", "--test-prompts", "5", *short])
        weights.append((tmp_path / name / "base" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    model = ModelSection(path=str(tmp_path / "first" / "base"))
    assert 450_000 < check_model_dir(model).num_parameters < 750_000
    assert load_tokenizer(model)("Walk 3: +-=-++.")["input_ids"]
