"""What every registered vote rule promises, with its default options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.types import EndState, Resolution, ScoredGroup
from tests.votes import EXACT, answer_all, boxed_group, section_of, tally_of
from voting.asking import finish
from voting.extract import make_extractor
from voting.resolve import check, resolve
from voting.rewards import reward
from voting.rules import VOTE_RULES, make_rule
from voting.tally import tally

BOXED = make_extractor(Plugin(name="boxed"))
FEW = settings(max_examples=25)
"""For each of many entries; the unit tests look longer at each kind."""
ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=10)
COMPATIBLE = ("srt_compat", "ttrl_compat")
"""Reproduce others' code, which depends on order and pays by a second comparison."""
PLAIN = sorted(set(VOTE_RULES) - {*COMPATIBLE})
RULES = sorted(VOTE_RULES)


def _vote(name: str, answers: Sequence[str | None], **fields: Any) -> tuple[Resolution, ScoredGroup]:
    """The decision on one group and what it pays; whatever a rule asks of workers is told by equal strings."""
    section = section_of(rule=name, **fields)
    group = boxed_group(answers, group_id=3)
    made = finish(tally(group, BOXED, EXACT))
    decided = resolve([made], section)[0]
    scored = answer_all(
        reward(group, made, decided, section), lambda label, text: text in (label, rf"so \boxed{{{label}}}")
    )
    return decided, scored


@pytest.mark.parametrize("name", RULES)
@FEW
@given(answers=ANSWERS, tie=st.sampled_from(["nobody", "first", "seeded"]), min_agreement=st.sampled_from([0.0, 0.6]))
def test_rewards_are_finite_and_bounded_and_abstentions_earn_the_least(
    name: str, answers: list[Any], tie: str, min_agreement: float
) -> None:
    decided, scored = _vote(name, answers, elect={"tie": tie, "min_agreement": min_agreement})
    assert (scored.rewards.shape, scored.rewards.dtype) == ((len(answers),), np.float32)
    assert np.isfinite(scored.rewards).all()
    least = make_rule(Plugin(name=name))[0].least
    assert ((scored.rewards >= least) & (scored.rewards <= 1)).all()
    if name != "random" and decided.is_paid:
        abstained = [r for r, c in zip(scored.rewards, scored.tally.cluster, strict=True) if c < 0]
        assert abstained == [least] * len(abstained)
    assert 0 <= decided.margin <= decided.agreement <= 1
    assert (decided.group_id, scored.pseudo_label) == (3, decided.pseudo_label)
    assert scored.kl_mask == decided.is_paid
    if not decided.is_paid:
        assert not scored.rewards.any()


@pytest.mark.parametrize("name", PLAIN)
@FEW
@given(answers=ANSWERS, random=st.randoms(), tie=st.sampled_from(["nobody", "seeded"]))
def test_the_order_of_completions_cannot_matter(name: str, answers: list[Any], random: Any, tie: str) -> None:
    order = random.sample(range(len(answers)), len(answers))
    one, paid = _vote(name, answers, elect={"tie": tie})
    other, shuffled = _vote(name, [answers[i] for i in order], elect={"tie": tie})
    by_index = range(len(answers)) if name == "random" else order
    assert shuffled.rewards.tolist() == [paid.rewards[i] for i in by_index]
    for field in ("pseudo_label", "agreement", "margin", "end_state", "is_paid"):
        assert getattr(one, field) == getattr(other, field)


@pytest.mark.parametrize("name", RULES)
@FEW
@given(answers=ANSWERS)
def test_renaming_answers_renames_the_label_and_changes_no_reward_that_is_made_of_votes(
    name: str, answers: list[Any]
) -> None:
    names = {"7": "9", "8": "12", "9": "7", None: None}
    one, paid = _vote(name, answers)
    other, renamed = _vote(name, [names[answer] for answer in answers])
    assert other.pseudo_label == names[one.pseudo_label]
    if make_rule(Plugin(name=name))[0].refine is None:
        assert renamed.rewards.tolist() == paid.rewards.tolist()
    else:  # what the text says counts, and the answer is a part of it
        assert np.sign(renamed.rewards).tolist() == np.sign(paid.rewards).tolist()
    assert (one.agreement, one.margin, one.end_state) == (other.agreement, other.margin, other.end_state)


@pytest.mark.parametrize("name", RULES)
def test_a_clear_majority_is_elected_and_pays_most_unless_the_rule_is_a_control(name: str) -> None:
    decided, scored = _vote(name, ["7", "8", "7", "7", None])
    assert (decided.pseudo_label, decided.agreement) == ("7", 0.6)
    if not make_rule(Plugin(name=name))[0].is_control:
        assert min(scored.rewards[[0, 2, 3]]) > max(scored.rewards[[1, 4]])


@pytest.mark.parametrize("name", RULES)
def test_nobody_is_elected_when_all_abstain(name: str) -> None:
    decided, scored = _vote(name, [None, None])
    assert (decided.pseudo_label, decided.label_cluster, decided.agreement) == (None, -1, 0.0)
    if name not in ("random", "format_only"):
        assert decided.end_state is EndState.NO_LABEL
        assert not scored.kl_mask
    if name != "random":
        assert scored.rewards.sum() == 0


@pytest.mark.parametrize("name", RULES)
@FEW
@given(
    answers=ANSWERS, low=st.floats(0, 1), high=st.floats(0, 1), field=st.sampled_from(["min_agreement", "min_margin"])
)
def test_a_higher_threshold_never_adds_a_label(
    name: str, answers: list[Any], low: float, high: float, field: str
) -> None:
    made = tally_of(answers)
    lower, higher = (resolve([made], section_of(rule=name, elect={field: value}))[0] for value in sorted((low, high)))
    assert higher.pseudo_label in (None, lower.pseudo_label)
    assert (higher.end_state is None) <= (lower.end_state is None)


@pytest.mark.parametrize("name", RULES)
def test_resolving_follows_the_order_of_the_groups(name: str) -> None:
    tallies = [tally_of(["7", "7"], group_id=i) for i in (9, 1, 4)]
    assert [r.group_id for r in resolve(tallies, section_of(rule=name))] == [9, 1, 4]


@pytest.mark.parametrize("name", RULES)
def test_the_default_options_are_valid_and_unknown_ones_are_not(name: str) -> None:
    assert check(section_of(rule=name)) == []
    [problem] = check(section_of(rule={"name": name, "options": {"no_such_option": 1}}))
    assert "no_such_option" in problem


@pytest.mark.parametrize("name", RULES)
def test_a_rule_pays_itself_or_asks_for_a_judgement_never_both(name: str) -> None:
    rule = make_rule(Plugin(name=name))[0]
    assert (rule.pay is None) == (rule.judge is not None) == (name in COMPATIBLE)
    assert bool(rule.preload) == (rule.judge is not None)
