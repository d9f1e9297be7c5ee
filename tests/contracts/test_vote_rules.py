"""What every registered vote rule promises, with its default options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin, VotingSection
from quorum.types import Float32Array, Resolution, Tally
from voting.equivalence import make_equivalence
from voting.rules import VOTE_RULES, make_rule, resolve
from voting.tally import tally_answers

EXACT = make_equivalence(VotingSection())
_ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=10)


def _vote(name: str, answers: list[str | None]) -> tuple[Tally, Resolution, Float32Array]:
    rule, options = make_rule(Plugin(name=name))
    made = tally_answers(3, answers, EXACT)
    resolution = rule.elect(made, options)
    return made, resolution, rule.pay(made, resolution, options)


@pytest.mark.parametrize("name", sorted(VOTE_RULES))
@given(answers=_ANSWERS)
def test_rewards_are_finite_and_abstentions_earn_nothing(name: str, answers: list[Any]) -> None:
    made, resolution, rewards = _vote(name, answers)
    assert rewards.shape == (len(answers),)
    assert rewards.dtype == np.float32
    assert np.isfinite(rewards).all()
    assert ((rewards >= 0) & (rewards <= 1)).all()
    assert not any(r for r, c in zip(rewards, made.cluster, strict=True) if c < 0)
    assert 0 <= resolution.agreement <= 1
    assert resolution.group_id == 3


@pytest.mark.parametrize("name", sorted(VOTE_RULES))
@given(answers=_ANSWERS, random=st.randoms())
def test_the_order_of_completions_cannot_matter(name: str, answers: list[Any], random: Any) -> None:
    order = list(range(len(answers)))
    random.shuffle(order)
    _, one, rewards = _vote(name, answers)
    _, other, shuffled = _vote(name, [answers[i] for i in order])
    assert shuffled.tolist() == [rewards[i] for i in order]
    assert (one.pseudo_label, one.agreement, one.end_state) == (other.pseudo_label, other.agreement, other.end_state)


@pytest.mark.parametrize("name", sorted(VOTE_RULES))
def test_a_clear_majority_is_elected_and_pays_most(name: str) -> None:
    _, resolution, rewards = _vote(name, ["7", "8", "7", "7", None])
    assert resolution.pseudo_label == "7"
    assert min(rewards[[0, 2, 3]]) > max(rewards[[1, 4]])


@pytest.mark.parametrize("name", sorted(VOTE_RULES))
def test_nobody_is_elected_when_all_abstain(name: str) -> None:
    _, resolution, rewards = _vote(name, [None, None])
    assert resolution.pseudo_label is None
    assert resolution.label_cluster == -1
    assert resolution.end_state is not None
    assert rewards.sum() == 0


@pytest.mark.parametrize("name", sorted(VOTE_RULES))
def test_resolving_follows_the_order_of_the_groups(name: str) -> None:
    tallies = [tally_answers(i, ["7", "7"], EXACT) for i in (9, 1, 4)]
    assert [r.group_id for r in resolve(tallies, VotingSection(rule=Plugin(name=name)))] == [9, 1, 4]
