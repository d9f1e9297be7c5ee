"""What a vote weighs and what agreement pays, rule by rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.errors import ConfigError
from quorum.types import EndState, Float32Array, GroupScores, Resolution, RolloutGroup, Tally
from tests.builders import make_completion, make_group
from tests.votes import decide, section_of, tally_of
from voting.resolve import ballots_of
from voting.rules import make_rule
from voting.sources import make_source

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", "10", None]), min_size=1, max_size=12)
JURIES = st.lists(st.sampled_from(["7", "8", "11", None]), max_size=6)


def _paid(tally: Tally, **fields: Any) -> tuple[Resolution, Float32Array]:
    """The resolution and, where it is paid, the rewards of one tally; zeros otherwise."""
    section = section_of(**fields)
    rule, options = make_rule(section.rule)
    resolution = decide(tally, **fields)
    if not resolution.is_paid:
        return resolution, np.zeros(len(tally.cluster), np.float32)
    return resolution, rule.pay(tally, resolution, ballots_of(tally, make_source(section.labels)[0]), options)


def _rewards(answers: Sequence[str | None], **fields: Any) -> list[float]:
    return _paid(tally_of(answers), **fields)[1].tolist()


# ---- weights


def _group(*lengths_and_logprobs: tuple[int, float]) -> RolloutGroup:
    return make_group(
        [
            make_completion(i, [1] * length, logprobs=[logprob] * length)
            for i, (length, logprob) in enumerate(lengths_and_logprobs)
        ]
    )


def _weights(group: RolloutGroup, weight: str, rule: str = "majority") -> tuple[float, ...]:
    made, options = make_rule(Plugin(name=rule, options={"weight": weight}))
    return made.weigh(group, options)


@pytest.mark.parametrize("rule", ["majority", "soft"])
def test_weights_are_what_their_names_say(rule: str) -> None:
    group = _group((2, -0.5), (4, -1.0), (0, 0.0))
    assert _weights(group, "one", rule) == ()
    assert _weights(group, "inverse_length", rule) == (0.5, 0.25, 0.0)
    assert _weights(group, "mean_logprob", rule) == pytest.approx((math.exp(-0.5), math.exp(-1.0), 0.0))
    mixed = make_group([make_completion(0, [1, 2, 3], logprobs=[-1.0, -2.0, -0.75])])
    assert _weights(mixed, "mean_logprob", rule) == pytest.approx((math.exp(-3.75 / 3),))


def test_short_answers_outvote_a_longer_majority_by_inverse_length() -> None:
    group = _group((2, -1.0), (3, -1.0), (10, -1.0), (10, -1.0), (10, -1.0))
    weighed = tally_of(["3", "3", "7", "7", "7"], weights=_weights(group, "inverse_length"))
    resolution, rewards = _paid(weighed)
    total = Fraction(1, 2) + Fraction(1, 3) + Fraction(3, 10)
    assert (resolution.pseudo_label, rewards.tolist()) == ("3", [1, 1, 0, 0, 0])
    assert resolution.agreement == pytest.approx(float((Fraction(1, 2) + Fraction(1, 3)) / total), abs=1e-15)
    assert resolution.margin == pytest.approx(float((Fraction(5, 6) - Fraction(3, 10)) / total), abs=1e-15)
    assert decide(tally_of(["3", "3", "7", "7", "7"])).pseudo_label == "7"


def test_sure_answers_outvote_an_unsure_majority_by_mean_logprob() -> None:
    group = _group((5, -0.1), (5, -2.0), (5, -2.5), (5, -3.0))
    resolution, rewards = _paid(tally_of(["3", "7", "7", "7"], weights=_weights(group, "mean_logprob")))
    votes = {"3": math.exp(-0.1), "7": math.exp(-2.0) + math.exp(-2.5) + math.exp(-3.0)}
    assert votes["3"] > votes["7"]
    assert (resolution.pseudo_label, rewards.tolist()) == ("3", [1, 0, 0, 0])
    assert resolution.agreement == pytest.approx(votes["3"] / sum(votes.values()), abs=1e-6)


_COMPLETIONS = st.lists(
    st.tuples(st.sampled_from(["7", "8", "9", None]), st.integers(0, 40), st.floats(-20, 0)), min_size=1, max_size=10
)


@given(_COMPLETIONS, st.sampled_from(["mean_logprob", "inverse_length"]), st.sampled_from(["majority", "soft"]))
def test_the_heaviest_answer_wins_by_hand_and_in_any_order(completions: Any, weight: str, rule: str) -> None:
    def vote(order: Sequence[int]) -> tuple[Resolution, dict[int, float]]:
        chosen = [completions[i] for i in order]
        weights = _weights(_group(*[(length, logprob) for _, length, logprob in chosen]), weight)
        resolution, rewards = _paid(tally_of([answer for answer, _, _ in chosen], weights=weights), rule=rule)
        return resolution, dict(zip(order, rewards.tolist(), strict=True))

    by_hand: dict[str, float] = {}
    for answer, length, logprob in completions:
        if answer is not None and length:
            one = 1 / length if weight == "inverse_length" else math.exp(np.float32(logprob))
            by_hand[answer] = by_hand.get(answer, 0.0) + one
    resolution, rewards = vote(range(len(completions)))
    heaviest = sorted(by_hand.values())[-2:]
    if len(heaviest) == 2 and heaviest[0] < heaviest[1] * (1 - 1e-6) or len(heaviest) == 1:
        assert resolution.pseudo_label == max(by_hand, key=lambda answer: by_hand[answer])
    backwards, rewards_backwards = vote(range(len(completions))[::-1])
    assert (backwards.pseudo_label, backwards.agreement) == (resolution.pseudo_label, resolution.agreement)
    assert rewards_backwards == rewards


def test_scores_of_the_learner_weigh_votes_where_there_are_some() -> None:
    group = make_group([[5, 6], [7], []])
    scores = GroupScores(entropies=(0.0, 1.0, 0.0), self_certainties=(2.0, 0.5, 0.0))
    for weight, expected in (("self_certainty", (2.0, 0.5, 0.0)), ("low_entropy", (1.0, math.exp(-1.0), 0.0))):
        rule, options = make_rule(Plugin(name="majority", options={"weight": weight}))
        assert rule.needs_scores(options)
        assert rule.weigh(replace(group, scores=scores), options) == pytest.approx(expected)
        assert rule.weigh(group, options) == ()
    rule, options = make_rule(Plugin(name="majority", options={"weight": "mean_logprob"}))
    assert not rule.needs_scores(options)


# ---- majority and soft


def test_members_of_the_winning_cluster_are_paid() -> None:
    assert _rewards(["7", "3", "7", None]) == [1, 0, 1, 0]
    assert _rewards(["7", "3"]) == [0, 0]
    assert _rewards([None, None]) == [0, 0]
    assert _rewards(["7", "7", "3"], elect={"min_agreement": 0.7}) == [0, 0, 0]


def test_a_label_that_no_completion_gave_pays_nobody() -> None:
    teacher = {"labels": {"name": "teacher"}}
    made = tally_of(["7", "7", "3"], jury=["9", "9", "9", "3"], provenance="teacher")
    resolution, rewards = _paid(made, **teacher)
    assert (resolution.pseudo_label, resolution.provenance, resolution.is_paid) == ("9", "teacher", True)
    assert made.sizes[resolution.label_cluster] == 0
    assert rewards.tolist() == [0, 0, 0]


def test_soft_rewards_are_the_share_of_ones_own_answer() -> None:
    answers = ["7", "7", "7", "3", None]
    assert _rewards(answers, rule="soft") == pytest.approx([0.75, 0.75, 0.75, 0.25, 0])
    every = {"name": "soft", "options": {"denominator": "all"}}
    assert _rewards(answers, rule=every) == pytest.approx([0.6, 0.6, 0.6, 0.2, 0])


def test_a_tie_pays_soft_rewards_without_a_label() -> None:
    resolution, rewards = _paid(tally_of(["7", "3", "7", "3"]), rule="soft")
    assert (resolution.pseudo_label, resolution.end_state, resolution.is_paid) == (None, None, True)
    assert (resolution.agreement, resolution.margin) == (0.5, 0.0)
    assert rewards.tolist() == [0.5] * 4
    for threshold in ({"min_agreement": 0.6}, {"min_margin": 0.1}):
        below, nothing = _paid(tally_of(["7", "3", "7", "3"]), rule="soft", elect=threshold)
        assert (below.end_state, nothing.tolist()) == (EndState.BELOW_THRESHOLD, [0] * 4)


def test_soft_rewards_by_a_jury_are_the_jurys_shares() -> None:
    made = tally_of(["7", "3", "5", None], jury=["3", "3", "7", None], provenance="cross_view")
    resolution, rewards = _paid(made, rule="soft", labels="cross_view")
    assert (resolution.pseudo_label, resolution.agreement) == ("3", 0.5)
    assert rewards.tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])


@given(ANSWERS, st.sampled_from(["parsed", "all"]))
def test_soft_rewards_sum_to_the_squares_of_sizes_over_the_denominator(answers: list[Any], denominator: str) -> None:
    rule = {"name": "soft", "options": {"denominator": denominator}}
    _, rewards = _paid(tally_of(answers), rule=rule)
    sizes = [answers.count(answer) for answer in {*answers} - {None}]
    voters = sum(sizes) if denominator == "parsed" else len(answers)
    assert float(rewards.sum(dtype=np.float64)) == pytest.approx(sum(n * n for n in sizes) / max(1, voters), abs=1e-5)


@given(ANSWERS)
def test_soft_rewards_rank_completions_by_how_many_answered_alike(answers: list[Any]) -> None:
    rewards = _rewards(answers, rule="soft")
    numbers = [0 if answer is None else answers.count(answer) for answer in answers]
    order = sorted(range(len(answers)), key=lambda i: numbers[i])
    for one, other in zip(order, order[1:], strict=False):
        assert (numbers[one] == numbers[other]) == (rewards[one] == rewards[other])
        assert rewards[one] <= rewards[other]


# ---- controls


def test_the_random_control_pays_by_seed_group_and_index_alone() -> None:
    def pay(answers: list[str | None], group_id: int = 0, **options: Any) -> list[float]:
        return _paid(tally_of(answers, group_id=group_id), rule={"name": "random", "options": options})[1].tolist()

    assert pay(["7", "7", "3", None]) == pay([None, "3", "1", "2"])
    k = 500
    assert pay([None] * k, probability=0.0) == [0] * k
    assert pay([None] * k, probability=1.0) == [1] * k
    assert 0.2 < np.mean(pay([None] * k, probability=0.3)) < 0.4
    others = [pay([None] * k), pay([None] * k, group_id=1), pay([None] * k, seed=1)]
    assert len({tuple(rewards) for rewards in others}) == 3


def test_the_format_control_pays_every_answer_whoever_wins() -> None:
    assert _rewards(["7", "3", None, "3"], rule="format_only") == [1, 1, 0, 1]
    assert _rewards(["7", "3"], rule="format_only") == [1, 1]
    assert _rewards([None, None], rule="format_only") == [0, 0]


def test_the_inverted_control_pays_every_answer_but_the_winning_one() -> None:
    assert _rewards(["7", "3", None, "3"], rule="inverted") == [1, 0, 0, 0]
    assert _rewards(["7", "3"], rule="inverted") == [0, 0]


@given(ANSWERS)
def test_controls_are_marked_and_keep_the_vote_on_record(answers: list[Any]) -> None:
    voted = decide(tally_of(answers))
    for name in ("random", "format_only", "inverted"):
        assert make_rule(Plugin(name=name))[0].is_control
        made = decide(tally_of(answers), rule=name)
        assert (made.pseudo_label, made.agreement, made.margin) == (
            voted.pseudo_label,
            voted.agreement,
            voted.margin,
        )


def test_unknown_rules_and_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="majority"):
        make_rule(Plugin(name="majorty"))
    with pytest.raises(ConfigError, match="probability"):
        make_rule(Plugin(name="random", options={"probability": 1.5}))
    with pytest.raises(ConfigError, match="tie"):
        make_rule(Plugin(name="majority", options={"tie": "first"}))
