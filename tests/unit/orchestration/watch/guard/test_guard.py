"""The score and the alarm: who raises it alone, who needs a witness, when it is over, what it never sees."""

from __future__ import annotations

import math

import pytest

from configs.schema import Plugin
from orchestration.watch.guard.guard import Guard

STRONG = Plugin(name="anchor", options={"loss": 0.1})
WEAK = Plugin(name="anchor_majority", options={"loss": 0.1})
OTHER = Plugin(name="consistency", options={"loss": 0.1})
VOTE, MAJORITY, CONSISTENT = "eval/anchor_vote_share", "eval/anchor_agreement", "eval/consistency_share"


def test_a_strong_detector_raises_the_alarm_alone_and_says_why() -> None:
    guard = Guard([STRONG, WEAK])
    assert guard.update({VOTE: 0.8, MAJORITY: 0.9}, 0).score == 0.0
    verdict = guard.update({VOTE: 0.6, MAJORITY: 0.9}, 4)
    assert verdict.score == 1.0 and verdict.is_new and verdict.is_alarmed and verdict.healthy_until == 0
    assert verdict.reason == "eval/anchor_vote_share is 60.0%, 80.0% after 0 steps (anchor)"


def test_a_weak_one_needs_a_witness_that_watches_something_else() -> None:
    twin = Plugin(name="consistency", options={"metric": MAJORITY, "loss": 0.1})
    for second, score in ((OTHER, 1.0), (twin, 0.5)):
        guard = Guard([WEAK, second])
        guard.update({MAJORITY: 0.8, CONSISTENT: 0.8}, 0)
        verdict = guard.update({MAJORITY: 0.4, CONSISTENT: 0.4}, 1)
        assert verdict.score == score and verdict.is_alarmed is (score >= 1.0) and len(verdict.tripped) == 2


def test_readings_of_rare_metrics_hold_until_the_next_one() -> None:
    guard = Guard([STRONG])
    guard.update({VOTE: 0.8}, 0)
    guard.update({VOTE: 0.4}, 1)
    assert guard.update({"vote/agreement_mean": 0.5}, 2).is_alarmed


def test_an_alarm_is_new_once_and_over_below_half() -> None:
    guard = Guard([STRONG])
    news = [guard.update({VOTE: value}, step).is_new for step, value in enumerate([0.8, 0.7, 0.73, 0.7, 0.8, 0.7])]
    assert news == [False, True, False, False, False, True]


def test_near_shows_in_the_score_below_the_alarm() -> None:
    guard = Guard([STRONG])
    guard.update({VOTE: 0.8}, 0)
    verdict = guard.update({VOTE: 0.76}, 1)
    assert verdict.score == pytest.approx(0.5) and verdict.tripped == {} and not verdict.is_alarmed


def test_what_needs_references_is_never_looked_at_and_what_is_no_number_neither() -> None:
    labelled = {"eval/average_accuracy": 0.1, "audit/label_accuracy": 0.2, "eval/majority_accuracy": 0.0}
    rows = [{VOTE: 0.8}, {VOTE: math.nan}, {VOTE: None}, {VOTE: 0.75}]
    with_labels, without = Guard(), Guard()
    seen = [with_labels.update({**row, **labelled}, step) for step, row in enumerate(rows)]
    assert seen == [without.update(row, step) for step, row in enumerate(rows)]
    assert without.levels().keys() == {"anchor"}
