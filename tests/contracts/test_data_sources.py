"""One contract for every format of prompts: same rows in, same prompts and references out."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import DataSource
from data.prompts import load_prompts
from data.references import load_references
from data.rows import READERS, source_format
from quorum.errors import DataError
from tests.unit.data.sample_data import (
    ROWS,
    VERL_ROWS,
    ChatTokenizer,
    data_section,
    write_jsonl,
    write_parquet,
)

GENERATED = DataSource(path="reasoning_gym:chain_sum", size=5, task_options={"max_terms": 2})


def build(kind: str, rows: list[dict], directory: Path) -> DataSource:
    """The rows written in one format, and the source that reads them."""
    if kind == "jsonl":
        return DataSource(path=str(write_jsonl(directory / "sums.jsonl", rows)))
    if kind == "parquet":
        return DataSource(path=str(write_parquet(directory / "sums.parquet", rows)))
    datasets = pytest.importorskip("datasets")
    if kind == "hub":
        # load_dataset takes a directory with data files as it takes a hub name.
        (directory / "sums").mkdir()
        write_parquet(directory / "sums" / "train.parquet", rows)
        return DataSource(path=str(directory / "sums"), format="hub")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(directory / "sums"))
    return DataSource(path=str(directory / "sums"))


@pytest.fixture(params=sorted(set(READERS) - {"reasoning_gym"}))
def kind(request):
    return request.param


def prompts_of(source, **section):
    return load_prompts([source], data_section(**section), ChatTokenizer(), max_prompt_tokens=200).prompts


@pytest.mark.parametrize("rows", [ROWS, VERL_ROWS], ids=["plain", "verl"])
def test_every_format_gives_the_same_prompts_and_answers(kind, rows, tmp_path):
    source = build(kind, rows, tmp_path)
    assert source_format(source) == kind
    prompts, references = prompts_of(source, prompt_suffix=" Now."), load_references([source])
    expected = [f"<user>What is {n} + {n}? Now.<assistant>" for n in range(5)]
    assert [p.text.removeprefix("<system>Be brief.") for p in prompts] == expected
    assert [references.get(p.prompt_id) for p in prompts] == ["0", "2", "4", "6", "8"]
    assert {p.data_source for p in prompts} == ({"sums"} if rows is ROWS else {"openai/gsm8k"})


def test_every_format_gives_the_same_ids_twice_and_different_ids_per_row(kind, tmp_path):
    source = build(kind, ROWS, tmp_path)
    first, again = prompts_of(source), prompts_of(source)
    assert [p.prompt_id for p in first] == [p.prompt_id for p in again]
    assert len({p.prompt_id for p in first}) == len(ROWS)


def test_every_format_names_a_missing_column(kind, tmp_path):
    source = build(kind, ROWS, tmp_path)
    wrong = source.model_copy(update={"columns": source.columns.model_copy(update={"prompt": "promt"})})
    with pytest.raises(DataError, match="it has prompt, answer; did you mean 'prompt'"):
        prompts_of(wrong)


@pytest.mark.parametrize("kind", ["datasets", "hub"])
def test_a_wrong_split_is_one_line(kind, tmp_path):
    source = build(kind, ROWS, tmp_path).model_copy(update={"split": "tset"})
    with pytest.raises(DataError, match="tset") as caught:
        prompts_of(source)
    assert "\n" not in str(caught.value)


def test_generated_tasks_keep_the_contract_too():
    pytest.importorskip("cellpylib", reason="reasoning-gym is part of the full stack")
    assert source_format(GENERATED) == "reasoning_gym"
    prompts, references = prompts_of(GENERATED), load_references([GENERATED])
    assert len({p.prompt_id for p in prompts}) == len(prompts) == len(references) == 5
    assert all(references.get(p.prompt_id) not in (None, "") for p in prompts)
