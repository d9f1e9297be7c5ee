"""Prompts that turned right or wrong between two points of a run, read from what the audit wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.watch.auditor import Auditor
from orchestration.watch.jsonl import append_rows
from orchestration.watch.transitions import compare, histories, prompt_rows, table_lines, transitions
from quorum.errors import DataError
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run, prompt_id

Answers = dict[int, list[str | None]]
EVALUATIONS: dict[int, Answers] = {
    0: {0: ["7", "7"], 1: ["8", "8"], 2: ["1", "1"]},
    2: {0: ["1", "1"], 1: ["8", "8"], 2: ["1", "9"]},
    4: {0: ["7", "7"], 1: ["1", "1"], 2: ["9", "9"]},
}


def audited_run(path: Path, steps: dict[int, Answers], role: Role = Role.EVAL) -> Any:
    config = make_run(path)
    for step, answers in steps.items():
        close_step(path, config, step, answers, role)
    auditor = Auditor(path, config)
    auditor.poll()
    auditor.close()
    return config


def indices(config: Any, part: Any) -> list[int]:
    known = {prompt_id(config, index): index for index in range(3)}
    return sorted(known[change.prompt_id] for change in part)


def test_the_first_and_the_last_evaluation_are_compared_by_default(tmp_path: Path) -> None:
    config = audited_run(tmp_path / "run", EVALUATIONS)
    found = transitions(tmp_path / "run")
    assert (found.before, found.after, found.role) == (0, 4, Role.EVAL)
    assert [indices(config, part) for row in found.matrix for part in row] == [[0], [1], [2], []]
    (lost,) = found.right_to_wrong
    assert (lost.reference, lost.before_answer, lost.after_answer) == ("8", "8", "1")
    assert (lost.was_correct, lost.is_correct, lost.data_source) == (True, False, "sums")
    assert found.num_prompts == 3 and found.num_unpaired == 0


def test_named_evaluations_are_compared_and_a_tie_is_wrong(tmp_path: Path) -> None:
    config = audited_run(tmp_path / "run", EVALUATIONS)
    found = transitions(tmp_path / "run", 0, 2)
    assert [indices(config, part) for row in found.matrix for part in row] == [[1], [0], [], [2]]
    assert found.wrong_to_wrong[0].after_answer is None
    assert transitions(tmp_path / "run", before=2).right_to_wrong == transitions(tmp_path / "run", 2, 4).right_to_wrong


def test_a_point_without_evaluation_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    audited_run(tmp_path / "run", EVALUATIONS)
    with pytest.raises(DataError, match="no evaluation after 3 steps was scored; there are those after 0, 2, 4"):
        transitions(tmp_path / "run", 0, 3)
    for before, after in [(2, 2), (4, 0)]:
        with pytest.raises(DataError, match="want two points, the earlier first"):
            transitions(tmp_path / "run", before, after)


def test_a_run_without_references_or_with_one_evaluation_has_nothing_to_compare(tmp_path: Path) -> None:
    make_run(tmp_path / "empty")
    with pytest.raises(DataError, match="no prompt was scored"):
        transitions(tmp_path / "empty")
    audited_run(tmp_path / "single", {0: EVALUATIONS[0]})
    with pytest.raises(DataError, match="nothing lies between 0 and 0"):
        transitions(tmp_path / "single")


def test_prompts_scored_at_one_point_only_are_counted_apart(tmp_path: Path) -> None:
    config = audited_run(tmp_path / "run", {0: {0: ["7"], 1: ["8"]}, 1: {1: ["8"], 2: ["9"]}})
    found = transitions(tmp_path / "run")
    assert indices(config, found.right_to_right) == [1] and (found.num_prompts, found.num_unpaired) == (1, 2)


def test_training_prompts_are_compared_between_their_first_and_last_visit(tmp_path: Path) -> None:
    steps: dict[int, Answers] = {
        0: {0: ["7", "7"]},
        1: {1: ["1", "1"]},
        2: {0: ["1", "1"], 2: ["9", "9"]},
        3: {1: ["8", "8"]},
        4: {0: ["7", "7"]},
    }
    config = audited_run(tmp_path / "run", steps, Role.TRAIN)
    found = transitions(tmp_path / "run", role=Role.TRAIN)
    assert [indices(config, part) for row in found.matrix for part in row] == [[0], [], [1], []]
    assert found.num_unpaired == 1
    found = transitions(tmp_path / "run", 0, 3, Role.TRAIN)
    assert [indices(config, part) for row in found.matrix for part in row] == [[], [0], [1], []]
    assert found.points == ("first visit from step 0 on", "last visit up to step 3")


def test_superseded_and_repeated_rows_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()

    def row(step: int, incarnation: int, is_correct: bool) -> dict[str, Any]:
        place = {"step": step, "branch": 0, "incarnation": incarnation, "role": "eval", "prompt_id": "p"}
        return place | {"data_source": "s", "reference": "7", "answer": "7", "is_correct": is_correct}

    rows = [row(0, 0, False), row(0, 0, True), row(1, 1, False), row(1, 0, True)]
    append_rows(tmp_path / "audit" / "prompts.jsonl", rows)
    found = transitions(tmp_path)
    assert [change.prompt_id for change in found.right_to_wrong] == ["p"] and found.num_prompts == 1
    assert histories(prompt_rows(tmp_path, Role.EVAL)) == {"p": [(0, True, "7"), (1, False, "7")]}
    assert prompt_rows(tmp_path, Role.TRAIN) == {}


def test_the_table_as_plain_text(tmp_path: Path) -> None:
    audited_run(tmp_path / "run", EVALUATIONS)
    assert table_lines(transitions(tmp_path / "run")) == [
        "majority answers of 3 prompts, after 0 steps against after 4 steps",
        "              right after  wrong after",
        "right before            1            1",
        "wrong before            1            0",
    ]


flags = st.dictionaries(st.sampled_from("abcdef"), st.booleans())


@given(flags, flags)
def test_every_prompt_of_both_points_is_in_exactly_one_of_the_four(old: dict[str, bool], new: dict[str, bool]) -> None:
    def rows(known: dict[str, bool]) -> dict[str, dict[str, Any]]:
        same = {"data_source": "s", "reference": "7", "answer": "7"}
        return {name: same | {"prompt_id": name, "is_correct": flag} for name, flag in known.items()}

    found = compare(0, 1, Role.EVAL, rows(old), rows(new))
    for was, row in zip((True, False), found.matrix, strict=True):
        for now, part in zip((True, False), row, strict=True):
            expected = [name for name in sorted(old) if name in new and (old[name], new[name]) == (was, now)]
            assert [change.prompt_id for change in part] == expected
    assert found.num_prompts == len(old.keys() & new.keys())
    assert found.num_prompts + found.num_unpaired == len(old.keys() | new.keys())
