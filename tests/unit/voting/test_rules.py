"""Who is elected, by which share, and why a group is dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import EndState, Resolution, Tally
from voting.equivalence import make_equivalence
from voting.rules import MajorityOptions, elect_majority, pay_members, resolve
from voting.tally import tally_answers

EXACT = make_equivalence(VotingSection())
_ANSWERS = st.lists(st.sampled_from(["7", "8", "9", "10", None]), min_size=1, max_size=12)
_OPTIONS = st.builds(
    MajorityOptions,
    denominator=st.sampled_from(["all", "parsed"]),
    tie=st.sampled_from(["nobody", "first", "seeded"]),
    tie_seed=st.integers(0, 3),
    min_agreement=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    drop_no_signal=st.booleans(),
)


def _vote(answers: Sequence[str | None], group_id: int = 0, **options: object) -> tuple[Tally, Resolution]:
    made = tally_answers(group_id, answers, EXACT)
    return made, elect_majority(made, MajorityOptions.model_validate(options))


def test_the_largest_cluster_wins_and_its_members_are_paid() -> None:
    made, resolution = _vote(["7", "3", "7", None])
    assert (resolution.pseudo_label, resolution.agreement, resolution.margin) == ("7", 0.5, 0.25)
    assert (resolution.provenance, resolution.end_state) == ("majority", None)
    rewards = pay_members(made, resolution, MajorityOptions())
    assert rewards.tolist() == [1, 0, 1, 0]
    assert rewards.dtype == np.float32


def test_abstentions_stay_in_the_denominator_unless_only_parsed_answers_count() -> None:
    answers = ["7", "7", "3", None, None, None, None, None]
    assert _vote(answers)[1].agreement == pytest.approx(2 / 8)
    assert _vote(answers, denominator="parsed")[1].agreement == pytest.approx(2 / 3)
    assert _vote(answers, denominator="parsed")[1].margin == pytest.approx(1 / 3)


def test_a_group_of_abstentions_has_no_label_and_pays_nothing() -> None:
    for denominator in ("all", "parsed"):
        made, resolution = _vote([None, None], denominator=denominator)
        assert resolution.end_state is EndState.NO_LABEL
        assert (resolution.label_cluster, resolution.pseudo_label, resolution.agreement) == (-1, None, 0.0)
        assert pay_members(made, resolution, MajorityOptions()).tolist() == [0, 0]


def test_a_tie_elects_nobody_by_default() -> None:
    resolution = _vote(["7", "3", "3", "7"])[1]
    assert (resolution.end_state, resolution.pseudo_label) == (EndState.NO_LABEL, None)


def test_a_tie_goes_to_the_first_seen_when_told_so() -> None:
    assert _vote(["7", "3", "3", "7"], tie="first")[1].pseudo_label == "7"
    assert _vote(["3", "7", "3", "7"], tie="first")[1].pseudo_label == "3"


def test_a_seeded_tie_break_ignores_the_order_and_favours_nobody() -> None:
    assert _vote(["7", "3"], tie="seeded")[1].pseudo_label == _vote(["3", "7"], tie="seeded")[1].pseudo_label
    winners = [_vote(["7", "3"], group_id=i, tie="seeded")[1].pseudo_label for i in range(400)]
    assert 150 < winners.count("7") < 250
    others = [_vote(["7", "3"], group_id=i, tie="seeded", tie_seed=1)[1].pseudo_label for i in range(400)]
    assert winners != others


def test_below_min_agreement_the_group_is_dropped_with_its_agreement_on_record() -> None:
    made, resolution = _vote(["7", "7", "3", None], min_agreement=0.6)
    assert (resolution.end_state, resolution.pseudo_label) == (EndState.BELOW_THRESHOLD, None)
    assert resolution.agreement == 0.5
    assert pay_members(made, resolution, MajorityOptions()).sum() == 0
    assert _vote(["7", "7", "3", None], min_agreement=0.5)[1].end_state is None


def test_a_unanimous_group_is_dropped_only_when_told_so() -> None:
    assert _vote(["7", "7"])[1].end_state is None
    assert _vote(["7", "7"], drop_no_signal=True)[1].end_state is EndState.NO_SIGNAL
    assert _vote(["7", "7", None], drop_no_signal=True)[1].end_state is None


def test_a_group_without_completions_is_refused() -> None:
    with pytest.raises(ValueError, match="no completions"):
        _vote([])


@given(_ANSWERS, _OPTIONS)
def test_rewards_are_membership_and_abstentions_never_win(answers, options) -> None:  # type: ignore[no-untyped-def]
    made = tally_answers(1, answers, EXACT)
    resolution = elect_majority(made, options)
    rewards = pay_members(made, resolution, options)
    assert set(rewards.tolist()) <= {0.0, 1.0}
    assert 0 <= resolution.margin <= resolution.agreement <= 1
    assert all(answer == resolution.pseudo_label for answer, r in zip(made.answers, rewards, strict=True) if r)
    assert all(answer is not None for answer, r in zip(made.answers, rewards, strict=True) if r)
    assert (resolution.pseudo_label is None) == (resolution.label_cluster == -1) == (rewards.sum() == 0)
    if resolution.end_state is EndState.NO_SIGNAL:
        assert len(set(rewards.tolist())) == 1


@given(_ANSWERS, _OPTIONS, st.randoms())
def test_permuting_completions_permutes_rewards(answers, options, random) -> None:  # type: ignore[no-untyped-def]
    if options.tie == "first":
        options = options.model_copy(update={"tie": "nobody"})
    order = list(range(len(answers)))
    random.shuffle(order)
    straight, shuffled = (tally_answers(1, a, EXACT) for a in (answers, [answers[i] for i in order]))
    one, other = elect_majority(straight, options), elect_majority(shuffled, options)
    assert (one.pseudo_label, one.agreement, one.margin) == (other.pseudo_label, other.agreement, other.margin)
    rewards = pay_members(straight, one, options)
    assert pay_members(shuffled, other, options).tolist() == [rewards[i] for i in order]


@given(_ANSWERS, st.sampled_from(["nobody", "first"]))
def test_renaming_answers_changes_nothing(answers, tie) -> None:  # type: ignore[no-untyped-def]
    renamed = [None if answer is None else f"name {answer}" for answer in answers]
    options = MajorityOptions(tie=tie)
    one, other = (elect_majority(tally_answers(1, a, EXACT), options) for a in (answers, renamed))
    assert (one.label_cluster, one.agreement, one.margin) == (other.label_cluster, other.agreement, other.margin)


@given(_ANSWERS, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_keeps_more(answers, low, high) -> None:  # type: ignore[no-untyped-def]
    low, high = sorted((low, high))
    made = tally_answers(1, answers, EXACT)
    if elect_majority(made, MajorityOptions(min_agreement=high)).end_state is None:
        assert elect_majority(made, MajorityOptions(min_agreement=low)).end_state is None


def test_resolve_keeps_the_order_of_the_groups() -> None:
    tallies = [tally_answers(i, ["7", str(i)], EXACT) for i in (5, 7, 2)]
    section = VotingSection(rule=Plugin(name="majority", options={"tie": "first"}))
    resolutions = resolve(tallies, section)
    assert [(r.group_id, r.pseudo_label) for r in resolutions] == [(5, "7"), (7, "7"), (2, "7")]
    assert resolve([], section) == []


def test_resolve_refuses_unknown_rules_and_options() -> None:
    with pytest.raises(ConfigError, match="majority"):
        resolve([], VotingSection(rule=Plugin(name="majorty")))
    with pytest.raises(ConfigError, match="min_agreement"):
        resolve([], VotingSection(rule=Plugin(name="majority", options={"min_agreement": 1.5})))
