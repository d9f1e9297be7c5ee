"""The grader: the run's equivalence between answers and references, many at once, no process left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from configs.schema import VotingSection
from orchestration.watch.grade import Grader
from quorum.errors import ConfigError
from tests.worker_processes import gone

MATH = VotingSection.model_validate({"equivalence": "math_verify", "labels": "vote"})


@pytest.fixture(scope="module")
def mathematical() -> Iterator[Grader]:
    with Grader(MATH) as grader:
        yield grader


def test_answers_are_compared_as_the_run_compares_them(mathematical: Grader) -> None:
    assert mathematical.grade("1/2", ["0.5", "\\frac{2}{4}", "2", None, ""]) == [True, True, False, False, False]
    with Grader(VotingSection()) as exact:
        assert exact.grade("1/2", ["1/2", " 1/2. ", "0.5", None, ""]) == [True, True, False, False, False]
        assert exact.grade("", ["", "1", None]) == [False, False, False]
        assert exact.grade("7", []) == []


def test_many_rows_compared_ahead_grade_as_one_by_one(mathematical: Grader) -> None:
    rows = [(str(number), [f"{number}.0", f"{2 * number}/2", str(number + 1), None, ""]) for number in range(40)]
    with Grader(MATH) as ahead:
        ahead.grade_ahead(rows)
        together = [ahead.grade(*row) for row in rows]
    assert together == [mathematical.grade(*row) for row in rows]
    assert all(verdicts == [True, True, False, False, False] for verdicts in together)


def test_an_answer_that_never_ends_is_wrong_and_delays_no_other(mathematical: Grader) -> None:
    hostile = "9^{9^{9^{9}}}"
    assert mathematical.grade("7", ["7", hostile, "7.0"]) == [True, False, True]


def test_closing_ends_the_worker_processes() -> None:
    grader = Grader(MATH)
    grader.grade("1/2", ["0.5"])
    pids = grader.pids
    assert pids
    grader.close()
    assert gone(pids) and grader.pids == []


def test_only_the_equivalence_of_the_section_counts() -> None:
    section = VotingSection.model_validate({"rule": "no_such_rule", "extractor": "no_such_extractor"})
    with Grader(section) as grader:
        assert grader.grade("7", ["$7$"]) == [True]
    with pytest.raises(ConfigError, match="did you mean 'exact'"):
        Grader(VotingSection.model_validate({"equivalence": "exactt"}))
