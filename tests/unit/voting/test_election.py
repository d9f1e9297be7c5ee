"""Who is elected, by which share of whose votes, and what a tie or a threshold does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import ElectionSection
from quorum.types import EndState, Resolution
from tests.votes import tally_of
from voting.election import Ballots, Electorate, count, elect

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", "10", None]), min_size=1, max_size=12)
JURIES = st.lists(st.sampled_from(["7", "8", "11", None]), max_size=6)
SECTIONS = st.builds(
    ElectionSection,
    denominator=st.sampled_from(["all", "parsed"]),
    tie=st.sampled_from(["nobody", "first", "seeded"]),
    tie_seed=st.integers(0, 3),
    min_agreement=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    min_margin=st.sampled_from([0.0, 0.25, 0.5]),
)
ELECTORATES = st.sampled_from(["own", "jury", "pooled"])


def _elect(answers: Sequence[str | None], group_id: int = 0, **settings: Any) -> Resolution:
    made = tally_of(answers, group_id=group_id)
    return elect(made, count(made, "own"), ElectionSection(**settings))


def _elect_with_jury(
    answers: Sequence[str | None], jury: Sequence[str | None], electorate: Electorate, **settings: Any
) -> Resolution:
    made = tally_of(answers, jury=jury)
    return elect(made, count(made, electorate), ElectionSection(**settings))


def test_the_largest_cluster_wins() -> None:
    resolution = _elect(["7", "3", "7", None])
    assert (resolution.pseudo_label, resolution.agreement, resolution.margin) == ("7", 0.5, 0.25)
    assert (resolution.provenance, resolution.end_state, resolution.is_paid) == ("majority", None, True)
    assert resolution.label_cluster == 0


def test_abstentions_stay_in_the_denominator_unless_only_parsed_answers_count() -> None:
    answers = ["7", "7", "3", None, None, None, None, None]
    assert _elect(answers).agreement == 2 / 8
    assert _elect(answers, denominator="parsed").agreement == 2 / 3
    assert _elect(answers, denominator="parsed").margin == 1 / 3


@pytest.mark.parametrize("denominator", ["all", "parsed"])
@pytest.mark.parametrize("tie", ["nobody", "first", "seeded"])
def test_a_group_of_abstentions_has_no_label(denominator: Any, tie: Any) -> None:
    resolution = _elect([None, None], denominator=denominator, tie=tie)
    assert (resolution.end_state, resolution.is_paid) == (EndState.NO_LABEL, False)
    assert (resolution.label_cluster, resolution.pseudo_label, resolution.agreement) == (-1, None, 0.0)


def test_a_tie_elects_nobody_by_default() -> None:
    resolution = _elect(["7", "3", "3", "7"])
    assert (resolution.end_state, resolution.pseudo_label) == (EndState.NO_LABEL, None)


def test_a_tie_goes_to_the_first_seen_when_told_so() -> None:
    assert _elect(["7", "3", "3", "7"], tie="first").pseudo_label == "7"
    assert _elect(["1", "3", "7", "3", "7"], tie="first").pseudo_label == "3"


def test_a_tie_among_jurors_goes_to_the_first_juror_whatever_the_group_answered() -> None:
    for own in (["3", "7"], ["7", "3"], ["9", "9"], [None]):
        assert _elect_with_jury(own, ["7", "3"], "jury", tie="first").pseudo_label == "7"
        assert _elect_with_jury(own, [None, "3", "7"], "jury", tie="first").pseudo_label == "3"
    assert _elect_with_jury(["3", "7"], ["7", "3"], "pooled", tie="first").pseudo_label == "3"


def test_a_seeded_tie_break_ignores_the_order_and_favours_nobody() -> None:
    for group_id in range(20):
        one, other = (_elect(answers, group_id, tie="seeded") for answers in (["7", "3"], ["3", "7"]))
        assert one.pseudo_label == other.pseudo_label
    winners = [_elect(["7", "3"], i, tie="seeded").pseudo_label for i in range(400)]
    assert 150 < winners.count("7") < 250
    others = [_elect(["7", "3"], i, tie="seeded", tie_seed=1).pseudo_label for i in range(400)]
    assert winners != others


def test_below_min_agreement_nobody_is_elected_with_the_agreement_on_record() -> None:
    resolution = _elect(["7", "7", "3", None], min_agreement=0.6)
    assert (resolution.end_state, resolution.pseudo_label) == (EndState.BELOW_THRESHOLD, None)
    assert (resolution.agreement, resolution.margin, resolution.is_paid) == (0.5, 0.25, False)
    assert _elect(["7", "7", "3", None], min_agreement=0.5).end_state is None


def test_below_min_margin_nobody_is_elected() -> None:
    answers = ["7"] * 5 + ["3"] * 4 + [None]
    assert _elect(answers, min_margin=0.1).pseudo_label == "7"
    assert _elect(answers, min_margin=0.11).end_state is EndState.BELOW_THRESHOLD
    assert _elect(["7"] * 4, min_margin=1.0).pseudo_label == "7"


@pytest.mark.parametrize("k", range(1, 65))
def test_a_threshold_that_is_just_reached_elects(k: int) -> None:
    for size in range(k // 2 + 1, k + 1):
        answers = ["7"] * size + [None] * (k - size)
        assert _elect(answers, min_agreement=size / k, min_margin=size / k).pseudo_label == "7"


def test_the_jury_the_group_or_both_make_the_label() -> None:
    own, jury = ["7", "7", "7", "3"], ["3", "3", "9", "3", None]
    by_jury = _elect_with_jury(own, jury, "jury")
    assert (by_jury.pseudo_label, by_jury.agreement, by_jury.margin) == ("3", 3 / 5, 2 / 5)
    assert _elect_with_jury(own, jury, "own").pseudo_label == "7"
    pooled = _elect_with_jury(own, jury, "pooled")
    assert (pooled.pseudo_label, pooled.agreement, pooled.margin) == ("3", 4 / 9, 1 / 9)


def test_a_jury_that_is_not_there_elects_nobody() -> None:
    resolution = _elect_with_jury(["7", "7"], [], "jury")
    assert (resolution.end_state, resolution.pseudo_label, resolution.agreement) == (EndState.NO_LABEL, None, 0.0)


def test_weights_weigh_the_groups_own_votes_and_jurors_weigh_one() -> None:
    made = tally_of(["7", "3", None, "7"], jury=["3", None], weights=[0.25, 4.0, 8.0, 0.5])
    assert count(made, "own") == Ballots((0.75, 4.0), 12.75)
    assert count(made, "jury") == Ballots((0.0, 1.0), 2.0)
    assert count(made, "pooled") == Ballots((0.75, 5.0), 14.75)


def test_a_cluster_without_weight_cannot_win() -> None:
    made = tally_of(["7", "3", "3"], weights=[0.0, 0.0, 0.0])
    assert elect(made, count(made, "own"), ElectionSection(tie="first")).end_state is EndState.NO_LABEL


def test_a_group_without_completions_is_refused() -> None:
    with pytest.raises(ValueError, match="group 4 has no completions"):
        _elect([], group_id=4)


@given(ANSWERS, JURIES, SECTIONS, ELECTORATES)
def test_abstentions_never_win_and_shares_are_shares(
    answers: list[Any], jury: list[Any], section: ElectionSection, electorate: Electorate
) -> None:
    made = tally_of(answers, jury=jury, group_id=1)
    ballots = count(made, electorate)
    resolution = elect(made, ballots, section)
    assert 0 <= resolution.margin <= resolution.agreement <= 1
    assert (resolution.pseudo_label is None) == (resolution.label_cluster == -1) == (not resolution.is_paid)
    voters = {"own": answers, "jury": jury, "pooled": answers + jury}[electorate]
    assert ballots.votes == tuple(voters.count(name) for name in made.representatives)
    assert (ballots.num_all, ballots.num_parsed) == (len(voters), len(voters) - voters.count(None))
    if resolution.pseudo_label is not None:
        assert voters.count(resolution.pseudo_label) == max(voters.count(answer) for answer in set(voters) - {None})


@given(ANSWERS, JURIES, SECTIONS, ELECTORATES, st.randoms(), st.lists(st.floats(0, 9), min_size=12, max_size=12))
def test_the_order_of_voters_cannot_matter_to_the_bit(
    answers: list[Any], jury: list[Any], section: ElectionSection, electorate: Electorate, random: Any, weights: Any
) -> None:
    if section.tie == "first":
        section = section.model_copy(update={"tie": "nobody"})
    order = random.sample(range(len(answers)), len(answers))
    straight = tally_of(answers, jury=jury, weights=weights[: len(answers)])
    shuffled = tally_of(
        [answers[i] for i in order], jury=random.sample(jury, len(jury)), weights=[weights[i] for i in order]
    )
    one, other = (elect(made, count(made, electorate), section) for made in (straight, shuffled))
    for name in ("pseudo_label", "agreement", "margin", "end_state", "is_paid"):
        assert getattr(one, name) == getattr(other, name)


@given(ANSWERS, ANSWERS, JURIES, SECTIONS)
def test_a_jury_decides_whatever_the_group_answered(
    answers: list[Any], others: list[Any], jury: list[Any], section: ElectionSection
) -> None:
    one, other = (tally_of(own, jury=jury, group_id=5) for own in (answers, others))
    by_one, by_other = (elect(made, count(made, "jury"), section) for made in (one, other))
    assert (by_one.pseudo_label, by_one.agreement, by_one.margin, by_one.end_state) == (
        by_other.pseudo_label,
        by_other.agreement,
        by_other.margin,
        by_other.end_state,
    )


@given(ANSWERS, JURIES, ELECTORATES, st.sampled_from(["nobody", "first"]), st.permutations(["7", "8", "9", "10", "11"]))
def test_renaming_answers_changes_nothing_but_the_names(
    answers: list[Any], jury: list[Any], electorate: Electorate, tie: Any, names: list[str]
) -> None:
    new = dict(zip(["7", "8", "9", "10", "11"], names, strict=True))
    made = tally_of(answers, jury=jury)
    renamed = tally_of([new.get(a) for a in answers], jury=[new.get(a) for a in jury])
    section = ElectionSection(tie=tie)
    one, other = (elect(each, count(each, electorate), section) for each in (made, renamed))
    assert (one.label_cluster, one.agreement, one.margin) == (other.label_cluster, other.agreement, other.margin)
    assert other.pseudo_label == new.get(one.pseudo_label or "")


@given(ANSWERS, SECTIONS, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["min_agreement", "min_margin"]))
def test_a_higher_threshold_never_adds_a_label(
    answers: list[Any], section: ElectionSection, low: float, high: float, threshold: str
) -> None:
    made = tally_of(answers, group_id=1)
    lower, higher = (
        elect(made, count(made, "own"), section.model_copy(update={threshold: value})) for value in sorted((low, high))
    )
    assert higher.pseudo_label in (None, lower.pseudo_label)
    assert (higher.agreement, higher.margin) == (lower.agreement, lower.margin)
