"""The frozen anchor and what an evaluation says against it, by hand-counted groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.watch.metrics import METRICS
from orchestration.watch.probe_set import ProbeBook, consistency, majorities, majority_texts, probe_metrics, same_share
from quorum.types import Outcome, Tally

NOBODY: dict[str, frozenset[str]] = {}


def tally(*answers: str | None) -> Tally:
    """A group whose answers are clustered by what is before the colon: "7:a" and "7:b" are one answer."""
    names = list(dict.fromkeys(answer.split(":")[0] for answer in answers if answer is not None))
    cluster = tuple(-1 if answer is None else names.index(answer.split(":")[0]) for answer in answers)
    return Tally(
        group_id=0,
        answers=answers,
        outcomes=tuple(Outcome.UNPARSED if answer is None else Outcome.ANSWERED for answer in answers),
        cluster=cluster,
        sizes=tuple(cluster.count(number) for number in range(len(names))),
        representatives=tuple(names),
    )


def test_a_majority_is_every_text_of_its_cluster_and_a_tie_is_none() -> None:
    assert majority_texts(tally("7:a", "7:b", "8")) == {"7:a", "7:b"}
    assert majority_texts(tally("7", "8")) == frozenset()
    assert majority_texts(tally(None, None)) == frozenset()


def test_the_anchor_is_met_by_any_text_of_its_answer() -> None:
    anchor = majorities([tally("7:a", "7:a", "1")], ["p"])
    met = probe_metrics([tally("7:a", "7:b", "7:b", None)], ["p"], anchor, NOBODY)
    assert met["eval/anchor_agreement"] == 1.0
    assert met["eval/anchor_vote_share"] == 0.75  # the whole cluster, though only one of its texts is the anchor's


def test_a_collapsed_policy_leaves_the_anchor_and_gives_one_answer_everywhere() -> None:
    names = ["p", "q", "r", "s"]
    base = [tally("1", "1"), tally("2", "2"), tally("3", "3"), tally("4", "5")]
    anchor = majorities(base, names)
    values = probe_metrics([tally("1", "1")] * 4, names, anchor, anchor)
    assert values["eval/anchor_agreement"] == values["eval/anchor_vote_share"] == pytest.approx(1 / 3)  # s had a tie
    assert values["eval/modal_answer_share"] == 1.0 and values["eval/distinct_answers"] == 1.0
    assert values["eval/label_flip_share"] == pytest.approx(2 / 3)
    assert values["eval/agreement_mean"] == 1.0
    assert set(values) <= METRICS.keys()


def test_who_answers_nothing_agrees_with_no_anchor() -> None:
    anchor = majorities([tally("1", "1")], ["p"])
    values = probe_metrics([tally(None, None)], ["p"], anchor, NOBODY)
    assert values["eval/anchor_agreement"] == values["eval/anchor_vote_share"] == 0.0
    assert values["eval/abstain_share"] == 1.0 and "eval/modal_answer_share" not in values


def test_what_cannot_be_compared_is_left_out() -> None:
    values = probe_metrics([tally("1", "1")], ["p"], NOBODY, NOBODY)
    assert not {"eval/anchor_agreement", "eval/anchor_vote_share", "eval/label_flip_share"} & values.keys()
    assert probe_metrics([], [], NOBODY, NOBODY) == {} and same_share({}, {}) is None


def test_consistency_counts_prompts_with_the_same_majority_in_both_draws() -> None:
    assert consistency([tally("1", "1"), tally("2", "3")], [tally("1", "1", "2"), tally("2", "2")]) == 0.5
    assert consistency([tally("1")], [tally(None)]) is None


def test_the_book_keeps_the_first_evaluation_over_resume_and_rollback(tmp_path: Path) -> None:
    book = ProbeBook(tmp_path)
    assert book.anchor() == {} and book.before(5) == {}
    first, second, third = ({"p": frozenset(texts)} for texts in (["1", "1.0"], ["2"], ["3"]))
    book.write(0, 0, 0, first)
    book.write(10, 0, 0, second)
    book.write(10, 1, 1, third)  # after a rollback
    book.write(0, 1, 1, third)  # as far as the first step
    again = ProbeBook(tmp_path)
    assert again.anchor() == first
    assert again.before(10) == third and again.before(20) == third and again.before(0) == {}
