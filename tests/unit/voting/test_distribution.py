"""Rules over the whole distribution of answers, computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from learner.algorithms.dr_grpo import above_mean
from learner.algorithms.grpo import GRPOOptions, group_standardized
from learner.algorithms.rloo import leave_one_out
from quorum.registry import Options
from quorum.types import EndState, Resolution, Tally
from tests.votes import section_of, tally_of
from voting.distribution import RestrainOptions, SelectiveOptions, answer_weights, negative_labels
from voting.election import NOBODY, Ballots, count
from voting.resolve import ballots_of, resolve
from voting.rules import make_rule
from voting.sources import make_source

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", "10", None]), min_size=2, max_size=12)


def _paid(
    tally: Tally, rule: str, options: dict[str, Any] | None = None, **fields: Any
) -> tuple[Resolution, list[float]]:
    section = section_of(rule={"name": rule, "options": options or {}}, **fields)
    made, chosen = make_rule(section.rule)
    decided = resolve([tally], section)[0]
    assert made.pay is not None
    return decided, made.pay(tally, decided, ballots_of(tally, make_source(section.labels)[0]), chosen).tolist()


def _scored(answers: Sequence[str | None], entropies: Sequence[float], **fields: Any) -> Tally:
    return replace(tally_of(answers, **fields), entropies=tuple(entropies))


# ---- RESTRAIN


def test_every_answer_is_paid_its_gaussian_weight() -> None:
    decided, rewards = _paid(tally_of(["7", "7", "7", "8", None]), "restrain", {"sigma": 0.5, "kappa": 3})
    seven, eight = math.exp(-(0.4**2) / 0.5), math.exp(-(0.8**2) / 0.5)
    assert (decided.pseudo_label, decided.penalty, decided.end_state) == ("7", 0.0, None)
    expected = [seven / (seven + eight)] * 3 + [eight / (seven + eight), 0.0]
    assert rewards == pytest.approx(expected, abs=1e-7)


def test_without_a_majority_worth_its_name_nothing_is_paid_and_the_group_is_penalised() -> None:
    decided, rewards = _paid(tally_of(["7", "7", "8", "9"]), "restrain", {"kappa": 3, "delta": 0.25})
    assert (decided.pseudo_label, decided.agreement, decided.penalty) == (None, 0.5, 0.25)
    assert (decided.end_state, decided.is_paid, rewards) == (None, True, [0.0] * 4)
    kept, _ = _paid(tally_of(["7", "7", "8", "9"]), "restrain", {"kappa": 3}, batch={"no_signal": "drop"})
    assert kept.end_state is None
    unpenalised, _ = _paid(
        tally_of(["7", "7", "8", "9"]), "restrain", {"kappa": 3, "delta": 0}, batch={"no_signal": "drop"}
    )
    assert unpenalised.end_state is EndState.NO_SIGNAL


def test_a_tie_at_the_top_pays_both_answers_and_has_no_label() -> None:
    decided, rewards = _paid(tally_of(["7", "7", "8", "8"]), "restrain", {"kappa": 2})
    assert (decided.pseudo_label, decided.is_paid, rewards) == (None, True, [0.5] * 4)


def test_a_small_sigma_is_majority_voting_and_divides_by_nothing() -> None:
    assert answer_weights(Ballots((3.0, 1.0), 100.0), RestrainOptions(sigma=0.005)) == pytest.approx((1.0, 0.0))


@given(votes=st.lists(st.integers(0, 64), min_size=1, max_size=8), sigma=st.floats(0.01, 5), center=st.floats(0, 1))
def test_answer_weights_sum_to_one_and_only_answers_with_votes_have_any(
    votes: list[int], sigma: float, center: float
) -> None:
    ballots = Ballots(tuple(map(float, votes)), float(sum(votes) + 3))
    weights = answer_weights(ballots, RestrainOptions(sigma=sigma, center=center))
    assert math.fsum(weights) == pytest.approx(1.0 if any(votes) else 0.0)
    assert all(weight >= 0 and (weight == 0 or size > 0) for weight, size in zip(weights, votes, strict=True))
    if center == 1.0:
        ranked = [weight for _, weight in sorted(zip(votes, weights, strict=True))]
        assert ranked == sorted(ranked)


@given(answers=ANSWERS)
def test_one_reward_does_what_the_sum_of_losses_over_all_answers_does(answers: list[Any]) -> None:
    """sum_j w_j A(1[answer = j]) for the estimators that are linear, and for GRPO's with `standardize`."""
    tally, options = tally_of(answers), RestrainOptions(kappa=0)
    everybody = np.ones(len(answers), dtype=bool)
    weights = answer_weights(count(tally, "own"), options)
    members = [np.array([float(c == j) for c in tally.cluster]) for j in range(len(weights))]
    for estimate, standardize in ((leave_one_out, False), (above_mean, False)):
        _, rewards = _paid(tally, "restrain", {"kappa": 0, "standardize": standardize})
        summed = sum(w * estimate(r, everybody, Options()) for w, r in zip(weights, members, strict=True))
        assert np.asarray(estimate(np.array(rewards), everybody, Options())) == pytest.approx(summed, abs=1e-6)
    _, rewards = _paid(tally, "restrain", {"kappa": 0, "standardize": True})
    exact = GRPOOptions(epsilon=1e-12)
    summed = sum(w * group_standardized(r, everybody, exact) for w, r in zip(weights, members, strict=True))
    assert np.asarray(above_mean(np.array(rewards), everybody, Options())) == pytest.approx(summed, abs=1e-5)


# ---- SCRL

OF_32 = ["7"] * 12 + ["8"] * 8 + ["9"] * 2 + ["10"] * 3 + [None] * 7
"""p = .375, .25, .0625, .09375; the margin of 7 is exactly .125."""


def _entropies(of_nine: float, of_ten: float) -> list[float]:
    return [1.0] * 20 + [of_nine] * 2 + [of_ten] * 3 + [1.0] * 7


def test_the_label_earns_one_uncertain_rare_answers_minus_one_and_unread_ones_minus_one() -> None:
    decided, rewards = _paid(_scored(OF_32, _entropies(2.0, 0.5)), "scrl")
    assert (decided.pseudo_label, decided.agreement, decided.margin) == ("7", 0.375, 0.125)
    assert rewards == [1.0] * 12 + [0.0] * 8 + [-1.0] * 2 + [0.0] * 3 + [-1.0] * 7


def test_below_the_thresholds_there_is_no_label_and_negative_labels_are_paid_all_the_same() -> None:
    answers = ["7"] * 11 + ["8"] * 9 + OF_32[20:]
    decided, rewards = _paid(_scored(answers, _entropies(2.0, 2.0)), "scrl")
    assert (decided.pseudo_label, decided.is_paid, decided.end_state) == (None, True, None)
    assert rewards == [0.0] * 20 + [-1.0] * 12
    nothing, _ = _paid(_scored(answers, _entropies(0.5, 0.5)), "scrl")
    assert (nothing.end_state, nothing.is_paid) == (EndState.BELOW_THRESHOLD, False)
    close = ["7"] * 12 + ["8"] * 9 + ["9"] * 11
    assert _paid(_scored(close, [1.0] * 32), "scrl")[0].end_state is EndState.BELOW_THRESHOLD


def test_the_continuous_mode_pays_shares_less_excess_entropy() -> None:
    tally = _scored(["7", "7", "7", "8", "8", "9"], [1.0, 1.0, 1.0, 2.0, 2.0, 5.0])
    options = {"mode": "continuous", "tau_pos": 0.4, "tau_low": 0.2, "tau_margin": 0.1, "entropy_weight": 0.1}
    _, rewards = _paid(tally, "scrl", options)
    expected = [0.5 - 0.4 + 0.1] * 3 + [0.0] * 2 + [1 / 6 - 0.2 - 0.3]
    assert rewards == pytest.approx(expected, abs=1e-7)


def test_without_entropies_there_are_no_negative_labels() -> None:
    tally = tally_of(OF_32)
    assert negative_labels(tally, count(tally, "own"), NOBODY, SelectiveOptions()) == ()


def test_entropies_are_asked_for_only_where_something_depends_on_them() -> None:
    for options, is_asked in (
        ({}, True),
        ({"tau_low": 0}, False),
        ({"tau_low": 0, "mode": "continuous"}, True),
        ({"tau_low": 0, "mode": "continuous", "entropy_weight": 0}, False),
    ):
        rule, made = make_rule(Plugin(name="scrl", options=options))
        assert rule.needs_scores(made) is is_asked


@given(answers=ANSWERS, seed=st.integers(0, 99), random=st.randoms())
def test_the_order_of_scored_completions_cannot_matter(answers: list[Any], seed: int, random: Any) -> None:
    entropies = np.random.default_rng(seed).uniform(0, 3, len(answers)).tolist()
    order = random.sample(range(len(answers)), len(answers))
    one, paid = _paid(_scored(answers, entropies), "scrl")
    other, shuffled = _paid(_scored([answers[i] for i in order], [entropies[i] for i in order]), "scrl")
    assert shuffled == [paid[i] for i in order]
    assert (one.pseudo_label, one.end_state, one.is_paid) == (other.pseudo_label, other.end_state, other.is_paid)
