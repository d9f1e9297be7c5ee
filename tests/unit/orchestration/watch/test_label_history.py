"""Label flips: what is a change, what is not, and a state that goes through a checkpoint."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestration.watch.label_history import LabelHistory, winning_answers
from quorum.types import EndState, Outcome, Resolution, Tally


def test_the_first_label_of_a_prompt_is_no_change_and_no_comparison() -> None:
    history = LabelHistory()
    assert history.visit("p", ["7"], "7") is None
    assert history.visit("q", ["8"], "8") is None


def test_another_label_is_a_change_and_the_same_is_none() -> None:
    history = LabelHistory()
    assert [history.visit("p", [label], label) for label in ("7", "7", "8", "7", "7")] == [
        None,
        False,
        True,
        True,
        False,
    ]


def test_another_spelling_of_the_earlier_label_in_the_winning_cluster_is_no_change() -> None:
    history = LabelHistory()
    history.visit("p", ["1/2"], "1/2")
    assert history.visit("p", {"0.5", "1/2"}, "0.5") is False
    assert history.visit("p", {"1/2"}, "1/2") is True


def test_a_visit_without_a_label_is_neither_compared_nor_remembered() -> None:
    history = LabelHistory()
    assert history.visit("p", [], None) is None
    assert history.visit("p", ["7"], "7") is None
    assert history.visit("p", [], None) is None
    assert history.visit("p", ["7"], "7") is False
    assert history.visit("p", [], None) is None
    assert history.visit("p", ["8"], "8") is True


def test_a_revealed_label_has_no_winning_cluster_and_is_compared_by_its_text() -> None:
    history = LabelHistory()
    history.visit("p", (), "7")
    assert history.visit("p", (), "7") is False and history.visit("p", (), "8") is True


def test_groups_are_visited_in_order_with_every_answer_of_the_winning_cluster() -> None:
    tally = Tally(
        group_id=0,
        answers=("0.5", "3", "1/2", None),
        outcomes=(Outcome.ANSWERED, Outcome.ANSWERED, Outcome.ANSWERED, Outcome.UNPARSED),
        cluster=(0, 1, 0, -1),
        sizes=(2, 1),
        representatives=("0.5", "3"),
    )

    def elected(number: int) -> Resolution:
        return Resolution(
            group_id=0,
            label_cluster=number,
            pseudo_label=None if number < 0 else tally.representatives[number],
            provenance="majority",
            agreement=0.5,
            margin=0.25,
            end_state=EndState.NO_LABEL if number < 0 else None,
        )

    assert winning_answers(tally, elected(0)) == {"0.5", "1/2"} and winning_answers(tally, elected(-1)) == set()
    history = LabelHistory.from_state({"p": "1/2", "q": "1/2"})
    flips = history.visit_groups(["p", "q", "r", "p"], [tally] * 4, [elected(0), elected(1), elected(0), elected(-1)])
    assert flips == [False, True, None, None]
    assert history.state() == {"p": "0.5", "q": "3", "r": "0.5"}


visits = st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from(["1", "2", "\ud800", None])), max_size=20)


@given(visits, visits)
def test_a_history_that_went_through_json_goes_on_as_if_it_had_not(
    first: list[tuple[str, str | None]], second: list[tuple[str, str | None]]
) -> None:
    whole = LabelHistory()
    for prompt_id, label in first:
        whole.visit(prompt_id, (), label)
    resumed = LabelHistory.from_state(json.loads(json.dumps(whole.state())))
    expected = [whole.visit(prompt_id, (), label) for prompt_id, label in second]
    assert [resumed.visit(prompt_id, (), label) for prompt_id, label in second] == expected
    assert resumed.state() == whole.state()


def test_a_state_is_a_copy() -> None:
    history = LabelHistory()
    history.visit("p", (), "7")
    history.state()["p"] = "8"
    assert history.visit("p", (), "7") is False


def test_a_history_with_memory_keeps_the_last_visits_through_json() -> None:
    history = LabelHistory(memory=3)
    for label, agreement in (("7", 0.25), ("8", 0.5), ("8", 0.75), (None, 0.9), ("7", 1.0), ("7", 0.5)):
        history.visit("p", (), label, agreement)
    past = history.past("p")
    assert (past.label, past.flips, past.agreements) == ("7", (False, True, False), (0.75, 1.0, 0.5))
    state = json.loads(json.dumps(history.state()))
    assert state == {"p": ["7", "010", [0.75, 1.0, 0.5]]}
    assert LabelHistory.from_state(state, memory=3).past("p") == past
    assert LabelHistory.from_state(state).state() == {"p": "7"}, "a history without memory keeps the label alone"
    assert LabelHistory.from_state({"p": "7"}, memory=3).past("p").flips == ()
    assert history.past("q").label is None
