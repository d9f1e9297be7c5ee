"""Prepared prompt files: a bare path brings ids and references; what the configuration says wins."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.load import load_config
from configs.schema import ColumnNames, DataSource
from data.prepare.write import Example, content_keys, write_prepared
from data.prompts import load_prompts
from data.references import load_references
from quorum.errors import DataError
from tests.unit.data.sample_data import LetterTokenizer, data_section, write_jsonl

TEXTS = ["What is 1 + 1?", "What is 2 + 2?", "What is 1 + 1?"]


def write_set(path: Path, answers: list[str | None]) -> Path:
    examples = [
        Example(key, text, "sums", answer)
        for key, text, answer in zip(content_keys(TEXTS), TEXTS, answers, strict=True)
    ]
    write_prepared(path, examples, {"recipe": "sums"})
    return path


def load(source: DataSource) -> list:
    return list(load_prompts([source], data_section(), LetterTokenizer(), max_prompt_tokens=99).prompts)


def test_a_bare_path_brings_prompts_ids_and_the_references_apart(tmp_path: Path) -> None:
    source = DataSource(path=str(write_set(tmp_path / "sums.parquet", ["2", "4", None])))
    prompts, references = load(source), load_references([source])
    assert [prompt.text for prompt in prompts] == TEXTS
    assert {prompt.data_source for prompt in prompts} == {"sums"}
    assert [references.get(prompt.prompt_id) for prompt in prompts] == ["2", "4", None]


def test_no_answer_is_anywhere_in_the_prompt_file(tmp_path: Path) -> None:
    path = write_set(tmp_path / "sums.parquet", ["secret-2", "secret-4", "secret-2"])
    assert pq.read_schema(path).names == ["id", "prompt", "data_source"]
    assert b"secret" not in path.read_bytes()
    assert "secret" not in path.with_suffix(".manifest.json").read_text()


def test_prompts_without_their_references_file_train_unlabelled(tmp_path: Path) -> None:
    path = write_set(tmp_path / "sums.parquet", ["2", "4", "2"])
    path.with_suffix(".references.parquet").unlink()
    assert len(load_references([DataSource(path=str(path))])) == 0
    assert len(load(DataSource(path=str(path)))) == 3


def test_a_configured_references_file_wins_and_must_be_there(tmp_path: Path) -> None:
    path = write_set(tmp_path / "sums.parquet", ["2", "4", "2"])
    keys = content_keys(TEXTS)
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": keys[1], "answer": "five"}])
    source = DataSource(path=str(path), references=str(other))
    references = load_references([source])
    assert [references.get(prompt.prompt_id) for prompt in load(source)] == [None, "five", None]
    with pytest.raises(DataError, match="no such file"):
        load_references([DataSource(path=str(path), references=str(tmp_path / "gone.parquet"))])


def test_references_apart_work_for_any_file_that_has_ids(tmp_path: Path) -> None:
    rows = [{"n": 7, "prompt": "a", "answer": "never read"}, {"n": 8, "prompt": "b", "answer": "never read"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    answers = write_jsonl(tmp_path / "b.jsonl", [{"n": 8, "gold": 3}, {"n": 7, "gold": 2}])
    source = DataSource(path=str(path), references=str(answers), columns=ColumnNames(id="n", answer="gold"))
    references = load_references([source])
    assert [references.get(prompt.prompt_id) for prompt in load(source)] == ["2", "3"]
    with pytest.raises(DataError, match="columns.id"):
        load_references([DataSource(path=str(path), references=str(answers))])


def test_ids_depend_on_the_text_and_the_set_s_name_not_on_row_or_folder(tmp_path: Path) -> None:
    first = load(DataSource(path=str(write_set(tmp_path / "sums.parquet", [None] * 3))))
    examples = [Example(key, text, "sums", None) for key, text in zip(content_keys(TEXTS), TEXTS, strict=True)]
    write_prepared(tmp_path / "sub" / "part.parquet", examples[1:][::-1], {}, name="sums.parquet")
    part = load(DataSource(path=str(tmp_path / "sub" / "part.parquet")))
    assert [prompt.prompt_id for prompt in part] == [first[2].prompt_id, first[1].prompt_id]


def test_equal_texts_have_keys_of_their_own() -> None:
    keys = content_keys(["a", "b", "a", "a"])
    assert keys[2:] == [f"{keys[0]}.1", f"{keys[0]}.2"] and len(set(keys)) == 4


def test_the_same_rows_give_the_same_manifest_and_hashes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_set(tmp_path / folder / "sums.parquet", ["2", "4", None])
    texts = [(tmp_path / folder / "sums.manifest.json").read_bytes() for folder in ("a", "b")]
    assert texts[0] == texts[1]
    changed = write_set(tmp_path / "a" / "sums.parquet", ["2", "5", None]).with_suffix(".manifest.json").read_bytes()
    assert changed != texts[1]


def test_the_configuration_takes_a_references_file(tmp_path: Path) -> None:
    config = load_config("demo", ["data.train.0.references=r.parquet"])
    assert config.data.train[0].references == "r.parquet"


def test_a_set_without_rows_or_with_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt is left"):
        write_prepared(tmp_path / "a.parquet", [], {})
    with pytest.raises(DataError, match=r"\.parquet"):
        write_prepared(tmp_path / "a.jsonl", [Example("k", "p", "s", None)], {})


def test_a_set_of_the_catalog_that_is_not_there_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="quorum data prepare aime24 --out prepared"):
        load(DataSource(path="prepared/aime24.parquet"))
