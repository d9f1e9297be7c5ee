"""Rollouts from disk: runs, group files and tables, their references by the right prompt, and what is neither."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.group_table import group_at, read_groups
from orchestration.stored_rollouts import Rollouts, find_rollouts
from quorum.errors import DataError
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run, prompt_id

ROWS = [
    {"prompt_id": "b", "completions": ["I say 7", "I say 8"], "answer": 7},
    {"prompt_id": "a", "completions": ["I say 3"], "answer": "3"},
]


def table(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts_of(rollouts: Rollouts) -> list[list[str]]:
    return [[completion.text for completion in group.completions] for group in rollouts.groups]


def test_a_run_is_read_step_by_step_as_it_was_without_superseded_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    close_step(run, config, 1, {2: ["9", None]}, Role.TRAIN)
    close_step(run, config, 0, {0: ["1", "1"]}, Role.TRAIN)
    close_step(run, config, 0, {0: ["7", "7"], 1: ["8", "8"]}, Role.TRAIN, incarnation=1)
    close_step(run, config, 0, {0: ["5", "5"]}, Role.EVAL)
    stored = find_rollouts([run])
    assert stored.section.extractor.name == "last_number"
    read = stored.read(with_tokens=True)
    assert (read.steps, read.extractors) == ([0, 0, 1], [None] * 3)
    rows = read_groups(run)
    for index, group in enumerate(read.groups):
        whole = group_at(rows, index)
        assert (group.key, group.prompt_id, group.prompt_text) == (whole.key, whole.prompt_id, whole.prompt_text)
        assert group.content_hash() == whole.content_hash()
        assert texts_of(read)[index] == [completion.text for completion in whole.completions]
    light = stored.read(with_tokens=False)
    assert texts_of(light) == texts_of(read)
    assert all(not len(c.token_ids) and not len(c.rollout_logprobs) for g in light.groups for c in g.completions)


def test_a_run_is_found_by_its_name_and_a_table_beside_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_run(tmp_path / "runs/mine")
    close_step(tmp_path / "runs/mine", config, 0, {0: ["7"]}, Role.TRAIN)
    monkeypatch.chdir(tmp_path)
    assert len(find_rollouts([Path("mine")]).read(with_tokens=False).groups) == 1
    assert find_rollouts([table(Path("mine.jsonl"), ROWS)]).is_table


def test_group_files_are_read_with_the_configuration_of_their_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    first = close_step(run, config, 0, {0: ["7", "7"]}, Role.TRAIN)
    held_out = close_step(run, config, 0, {1: ["8"]}, Role.EVAL)
    stored = find_rollouts([first, held_out])
    assert stored.section.extractor.name == "last_number"
    read = stored.read(with_tokens=False)
    assert [group.role for group in read.groups] == [Role.TRAIN, Role.EVAL]
    references = stored.references(read.groups)
    assert [references.get(group.prompt_id) for group in read.groups] == ["7", "8"]
    moved = tmp_path / "moved.parquet"
    first.rename(moved)
    alone = find_rollouts([moved])
    assert (alone.config, alone.section.extractor.name) == (None, "boxed")
    assert len(alone.references(alone.read(with_tokens=False).groups)) == 0


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.parquet"])
def test_a_table_is_read_in_the_order_of_its_rows(tmp_path: Path, name: str) -> None:
    rows = [row | {"answer": str(row["answer"])} for row in ROWS]
    stored = find_rollouts([table(tmp_path / name, rows)])
    read = stored.read(with_tokens=False)
    assert [(group.group_id, group.prompt_id) for group in read.groups] == [(0, "b"), (1, "a")]
    assert texts_of(read) == [["I say 7", "I say 8"], ["I say 3"]]
    references = stored.references(read.groups)
    assert (references.get("b"), references.get("a"), len(references)) == ("7", "3", 2)


def test_rows_without_a_prompt_id_go_by_their_number_and_answers_are_text(tmp_path: Path) -> None:
    rows = [{"completions": ["x"], "answer": 7}, {"completions": ["y"]}, {"completions": ["z"], "answer": [1, 2]}]
    stored = find_rollouts([table(tmp_path / "samples.jsonl", rows)])
    groups = stored.read(with_tokens=False).groups
    references = stored.references(groups)
    assert [group.prompt_id for group in groups] == ["0", "1", "2"]
    assert [references.get(str(number)) for number in range(3)] == ["7", None, "[1, 2]"]


def test_answers_of_a_file_go_by_prompt_id_by_row_or_by_the_run_s_data(tmp_path: Path) -> None:
    stored = find_rollouts([table(tmp_path / "samples.jsonl", ROWS)])
    groups = stored.read(with_tokens=False).groups
    by_id = table(tmp_path / "by_id.parquet", [{"prompt_id": "a", "answer": "4"}, {"prompt_id": "z", "answer": "0"}])
    references = stored.references(groups, by_id)
    assert (references.get("a"), references.get("b"), len(references)) == ("4", None, 1)

    unnamed = find_rollouts([table(tmp_path / "unnamed.jsonl", [{"completions": ["x"]}, {"completions": ["y"]}])])
    by_row = table(tmp_path / "by_row.jsonl", [{"answer": "5"}, {"answer": "6"}])
    references = unnamed.references(unnamed.read(with_tokens=False).groups, by_row)
    assert (references.get("0"), references.get("1")) == ("5", "6")

    run = tmp_path / "run"
    config = make_run(run)
    close_step(run, config, 0, {1: ["8", "8"]}, Role.TRAIN)
    of_run = find_rollouts([run])
    groups = of_run.read(with_tokens=False).groups
    moved = tmp_path / "elsewhere" / "sums.jsonl"
    moved.parent.mkdir()
    (tmp_path / "sums.jsonl").rename(moved)
    assert of_run.references(groups, moved).get(prompt_id(config, 1)) == "8"
    given = table(tmp_path / "given.jsonl", [{"prompt_id": prompt_id(config, 1), "answer": "88"}])
    assert of_run.references(groups, given).get(prompt_id(config, 1)) == "88"
    with pytest.raises(DataError, match=r"sums\.jsonl"):
        of_run.references(groups)
    with pytest.raises(DataError, match="none of its 2 answers belongs to a prompt"):
        of_run.references(groups, by_row)


def test_prompts_of_a_source_with_its_own_extractor_keep_it(tmp_path: Path) -> None:
    run, data = tmp_path / "run", str(tmp_path / "sums.jsonl")
    config = make_run(run, data={"train": [{"path": data, "extractor": "reasoning_gym"}]})
    close_step(run, config, 0, {0: ["7"], 2: ["9"]}, Role.TRAIN)
    assert find_rollouts([run]).read(with_tokens=False).extractors == ["reasoning_gym"] * 2


def test_a_lone_surrogate_becomes_a_question_mark_as_in_group_files(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"completions": ["\\ud800 7"]}\n')
    assert texts_of(find_rollouts([path]).read(with_tokens=False)) == [["? 7"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"completion": ["x"]}], r"line 1: no column 'completions' \(it has completion\); did you mean 'completion'"),
        ([ROWS[0], {"prompt_id": "c", "completions": []}], "line 2: completions must be a list of at least one text"),
        ([{"completions": ["x", 7]}], "line 1: completions must be a list"),
        ([{"completions": "x"}], "line 1: completions must be a list"),
        ([ROWS[0], {"completions": ["x"]}], "line 2: no column 'prompt_id'"),
        ([], "no rows"),
    ],
)
def test_a_row_that_is_no_group_is_named(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_rollouts([table(tmp_path / "samples.jsonl", rows)]).read(with_tokens=False)


def test_what_is_no_rollout_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make_run(run)
    closed = close_step(run, config, 0, {0: ["7"]}, Role.TRAIN)
    samples, broken = table(tmp_path / "samples.jsonl", ROWS), tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    running = run / "groups" / "step-000001.b00.i00.running.arrow"
    running.write_bytes(b"")
    empty = tmp_path / "empty"
    (empty / "groups").mkdir(parents=True)
    for paths, message in [
        ([tmp_path / "sample.jsonl"], r"no such file or run; did you mean .*samples\.jsonl\?"),
        ([tmp_path], "no run directory: it has no groups/"),
        ([empty], "no closed training step yet"),
        ([run, closed], "is a directory: give one run, or files"),
        ([closed, samples], r"samples\.jsonl is not a closed group file"),
        ([broken], "not a readable Parquet file"),
        ([running], "not closed"),
    ]:
        with pytest.raises(DataError, match=message):
            find_rollouts(paths)
    cut = tmp_path / "step-000000.b00.i00.parquet"
    pq.write_table(read_groups(run).drop_columns("completions"), cut)
    with pytest.raises(DataError, match="cannot be read as a group file"):
        find_rollouts([cut]).read(with_tokens=False)
