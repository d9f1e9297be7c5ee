"""Scored groups and their receipts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import Resolution, RolloutGroup, ScoredGroup, Tally
from tests.builders import make_group
from tests.votes import EXACT, boxed_group, section_of
from voting.asking import finish
from voting.extract import make_extractor
from voting.resolve import resolve
from voting.rewards import receipt_of, reward, reward_hash
from voting.tally import Jury, tally

BOXED = make_extractor(Plugin(name="boxed"))
SECTION = VotingSection()


def _voted(
    *answers: str | None, group_id: int = 4, section: VotingSection = SECTION, jury: Jury | None = None
) -> tuple[RolloutGroup, Tally, Resolution]:
    texts = ["none" if answer is None else rf"\boxed{{{answer}}}" for answer in answers]
    group = make_group([[1] * (i + 1) for i in range(len(answers))], group_id=group_id, texts=texts)
    made = finish(tally(group, BOXED, EXACT, jury=jury))
    return group, made, resolve([made], section)[0]


def _score(*answers: str | None, jury: Jury | None = None, **fields: Any) -> ScoredGroup:
    section = section_of(**fields)
    return finish(reward(*_voted(*answers, section=section, jury=jury), section))


def test_a_scored_group_carries_the_vote_and_trains_on_every_completion() -> None:
    group, made, resolution = _voted("7", "3", "7", "")
    scored = finish(reward(group, made, resolution, SECTION))
    assert scored.group is group
    assert scored.tally is made
    assert (scored.pseudo_label, scored.provenance, scored.agreement, scored.margin) == ("7", "majority", 0.5, 0.25)
    assert scored.rewards.tolist() == [1, 0, 1, 0]
    assert scored.rewards.dtype == np.float32
    assert scored.train_mask.tolist() == [True] * 4
    assert scored.kl_mask
    assert scored.num_unjudged == 0


def test_without_a_label_nothing_is_paid_and_the_kl_penalty_is_off() -> None:
    scored = _score("7", "3", batch={"unlabeled": "zero_reward"})
    assert scored.pseudo_label is None
    assert scored.rewards.tolist() == [0, 0]
    assert not scored.kl_mask


def test_all_vote_and_some_are_trained_on() -> None:
    scored = _score("7", "3", "3", "7", "7", train={"num_completions": 2})
    assert scored.rewards.tolist() == [1, 0, 0, 1, 1]
    assert scored.train_mask.tolist() == [True, True, False, False, False]
    assert receipt_of(scored).trained == (True, True, False, False, False)


def test_a_jurys_label_pays_those_who_agree_with_it_and_names_its_provenance() -> None:
    jury = Jury("teacher", (boxed_group(["3", "3", "7"], group_id=9),))
    scored = _score("7", "7", "3", jury=jury, labels="teacher")
    assert (scored.pseudo_label, scored.provenance, scored.agreement) == ("3", "teacher", 2 / 3)
    assert scored.rewards.tolist() == [0, 0, 1]


def test_a_receipt_holds_scalars_only() -> None:
    scored = _score("7", "3", "7")
    receipt = receipt_of(scored)
    assert receipt.group_id == 4
    assert receipt.prompt_tokens == 3
    assert receipt.completion_tokens == (1, 2, 3)
    assert receipt.trained == (True, True, True)
    assert receipt.reward_sum == 2.0
    assert receipt.reward_hash == reward_hash(scored.rewards, scored.train_mask)


def test_the_reward_hash_tells_rewards_and_masks_apart() -> None:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    all_on, one_off = np.ones(3, np.bool_), np.array([True, True, False])
    hashes = {reward_hash(ones, all_on), reward_hash(zeros, all_on), reward_hash(ones, one_off)}
    assert len(hashes) == 3
    assert all(len(text) == 16 for text in hashes)
    assert reward_hash(ones, all_on) == reward_hash(ones.copy(), all_on.copy())
    assert reward_hash(np.ones(6, np.float32)[::2], all_on) == reward_hash(ones, all_on)


def test_parts_of_different_groups_are_refused() -> None:
    group, made, resolution = _voted("7", "3", "7")
    other_group, other_tally, _ = _voted("7", "3", "7", group_id=5)
    shorter, _, _ = _voted("7", "3")
    for parts in ((other_group, made, resolution), (group, other_tally, resolution), (shorter, made, resolution)):
        with pytest.raises(ValueError, match="one group"):
            finish(reward(*parts, SECTION))


def test_unknown_rules_and_sources_are_refused() -> None:
    parts = _voted("7")
    with pytest.raises(ConfigError, match="voting.rule"):
        finish(reward(*parts, section_of(rule="majorty")))
    with pytest.raises(ConfigError, match="voting.labels"):
        finish(reward(*parts, section_of(labels="votes")))


_ANSWERS = st.lists(st.sampled_from(["7", "8", " 8. ", "9", "", None]), min_size=1, max_size=8)
_RULES = st.sampled_from(["majority", "soft", "inverted", "format_only"])


@given(
    _ANSWERS,
    st.lists(st.sampled_from(["7", "9", "11", None]), max_size=4),
    _RULES,
    st.sampled_from(["vote", "teacher", "pooled_teacher", "cross_view", "ground_truth"]),
    st.sampled_from(["nobody", "seeded"]),
    st.randoms(),
)
def test_permuting_completions_permutes_rewards_and_changes_nothing_else(
    answers: list[Any], jury: list[Any], rule: str, labels: str, tie: str, random: Any
) -> None:
    order = random.sample(range(len(answers)), len(answers))
    fields = {"rule": rule, "labels": labels, "elect": {"tie": tie}}
    one = _score(*answers, jury=Jury("p", (boxed_group(jury, 7),)), **fields)
    mixed = Jury("p", (boxed_group(random.sample(jury, len(jury)), 7),))
    other = _score(*(answers[i] for i in order), jury=mixed, **fields)
    assert other.rewards.tolist() == [one.rewards[i] for i in order]
    assert other.tally.answers == tuple(one.tally.answers[i] for i in order)
    assert other.tally.outcomes == tuple(one.tally.outcomes[i] for i in order)
    for field in ("pseudo_label", "agreement", "margin", "kl_mask", "provenance"):
        assert getattr(one, field) == getattr(other, field)


@given(_ANSWERS, _RULES, st.sampled_from([0.0, 0.5, 0.9]))
def test_rewards_are_shares_and_abstentions_earn_nothing(answers: list[Any], rule: str, min_agreement: float) -> None:
    scored = _score(*answers, rule=rule, elect={"min_agreement": min_agreement})
    assert np.isfinite(scored.rewards).all()
    assert ((scored.rewards >= 0) & (scored.rewards <= 1)).all()
    assert not any(r for r, answer in zip(scored.rewards, scored.tally.answers, strict=True) if answer is None)
    if rule == "majority":
        paid = {a for a, r in zip(scored.tally.answers, scored.rewards, strict=True) if r}
        assert paid == ({scored.pseudo_label} if scored.pseudo_label is not None else set())
