"""Vote metrics against hand-counted votes."""

from __future__ import annotations

import pytest

from orchestration.watch.metrics import METRICS
from orchestration.watch.vote_metrics import modal_answer, vote_metrics
from quorum.types import EndState, Outcome, Resolution, ScoreReceipt, Tally


def tally(group_id: int, *answers: str | None, outcome: Outcome = Outcome.UNPARSED) -> Tally:
    names = tuple(dict.fromkeys(answer for answer in answers if answer is not None))
    return Tally(
        group_id=group_id,
        answers=answers,
        outcomes=tuple(outcome if answer is None else Outcome.ANSWERED for answer in answers),
        cluster=tuple(-1 if answer is None else names.index(answer) for answer in answers),
        sizes=tuple(answers.count(name) for name in names),
        representatives=names,
    )


def resolution(group_id: int, label: str | None, agreement: float, provenance: str = "majority") -> Resolution:
    return Resolution(
        group_id=group_id,
        label_cluster=-1 if label is None else 0,
        pseudo_label=label,
        provenance=provenance,
        agreement=agreement,
        margin=agreement / 2,
        end_state=EndState.NO_LABEL if label is None else None,
    )


def receipt(group_id: int, reward_sum: float, k: int = 4) -> ScoreReceipt:
    return ScoreReceipt(
        group_id=group_id,
        prompt_tokens=3,
        completion_tokens=(5,) * k,
        trained=(True,) * k,
        reward_sum=reward_sum,
        reward_hash="",
    )


def test_vote_metrics_of_four_hand_counted_groups() -> None:
    tallies = [
        tally(0, "7", "7", "7", "7"),
        tally(1, "7", "7", "3", None),
        tally(2, None, None, None, None, outcome=Outcome.TRUNCATED),
        tally(3, "2", "2", "2", "1"),
    ]
    resolutions = [
        resolution(0, "7", 1.0),
        resolution(1, "7", 0.5),
        resolution(2, None, 0.0),
        resolution(3, "2", 0.75, "gold"),
    ]
    values = vote_metrics(tallies, resolutions, [receipt(0, 4), receipt(1, 2), receipt(3, 3)])
    assert values.keys() <= METRICS.keys()
    expected = {
        "vote/reward_mean": 9 / 12,
        "vote/agreement_mean": 2.25 / 4,
        "vote/margin_mean": 1.125 / 4,
        "vote/abstain_share": 5 / 16,
        "vote/truncated_share": 4 / 16,
        "vote/timed_out_share": 0.0,
        "vote/error_share": 0.0,
        "vote/unanimous_share": 1 / 4,
        "vote/no_label_share": 1 / 4,
        "vote/kept_share": 3 / 4,
        "vote/distinct_answers_per_prompt": 5 / 4,
        "vote/distinct_answers": 2,
        "vote/modal_answer_share": 2 / 3,
        "vote/num_intransitive_merges": 0,
        "vote/num_revealed_labels": 1,
    }
    assert values == pytest.approx(expected)


def test_one_answer_everywhere_is_a_modal_share_of_one() -> None:
    tallies = [tally(0, "1", "1"), tally(1, "1", "1", None)]
    values = vote_metrics(tallies, [resolution(0, "1", 1), resolution(1, "1", 1)], [])
    assert values["vote/modal_answer_share"] == 1.0
    assert values["vote/unanimous_share"] == 0.5
    assert "vote/reward_mean" not in values


def test_a_step_where_nobody_answered_has_no_modal_answer() -> None:
    values = vote_metrics([tally(0, None, None)], [resolution(0, None, 0)], [])
    assert "vote/modal_answer_share" not in values and values["vote/distinct_answers"] == 0


def test_no_groups_give_no_metrics() -> None:
    assert vote_metrics([], [], []) == {}


def test_the_modal_answer_of_a_tie_does_not_depend_on_the_order() -> None:
    assert modal_answer(tally(0, "b", "a")) == modal_answer(tally(0, "a", "b")) == "a"
