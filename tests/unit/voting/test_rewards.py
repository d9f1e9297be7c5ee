"""Scored groups and their receipts."""

from __future__ import annotations

import numpy as np
import pytest

from configs.schema import VotingSection
from quorum.types import Resolution, RolloutGroup, Tally
from tests.builders import make_group
from voting.equivalence import make_equivalence
from voting.extract import extract_boxed
from voting.rewards import receipt_of, reward, reward_hash
from voting.rules import resolve
from voting.tally import tally

SECTION = VotingSection()


def _voted(*answers: str, group_id: int = 4) -> tuple[RolloutGroup, Tally, Resolution]:
    tokens = [[1] * (i + 1) for i in range(len(answers))]
    group = make_group(tokens, group_id=group_id, texts=[rf"\boxed{{{answer}}}" for answer in answers])
    made = tally(group, extract_boxed, make_equivalence(SECTION))
    return group, made, resolve([made], SECTION)[0]


def test_a_scored_group_carries_the_vote_and_trains_on_every_completion() -> None:
    group, made, resolution = _voted("7", "3", "7", "")
    scored = reward(group, made, resolution, SECTION)
    assert scored.group is group
    assert scored.tally is made
    assert (scored.pseudo_label, scored.provenance, scored.agreement, scored.margin) == ("7", "majority", 0.5, 0.25)
    assert scored.rewards.tolist() == [1, 0, 1, 0]
    assert scored.rewards.dtype == np.float32
    assert scored.train_mask.tolist() == [True] * 4
    assert scored.kl_mask


def test_without_a_label_nothing_is_paid_and_the_kl_penalty_is_off() -> None:
    scored = reward(*_voted("7", "3"), SECTION)
    assert scored.pseudo_label is None
    assert scored.rewards.tolist() == [0, 0]
    assert not scored.kl_mask


def test_a_receipt_holds_scalars_only() -> None:
    receipt = receipt_of(reward(*_voted("7", "3", "7"), SECTION))
    assert receipt.group_id == 4
    assert receipt.prompt_tokens == 3
    assert receipt.completion_tokens == (1, 2, 3)
    assert receipt.trained == (True, True, True)
    assert receipt.reward_sum == 2.0


def test_the_reward_hash_tells_rewards_and_masks_apart() -> None:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    all_on, one_off = np.ones(3, np.bool_), np.array([True, True, False])
    hashes = {reward_hash(ones, all_on), reward_hash(zeros, all_on), reward_hash(ones, one_off)}
    assert len(hashes) == 3
    assert all(len(text) == 16 for text in hashes)
    assert reward_hash(ones, all_on) == reward_hash(ones.copy(), all_on.copy())


def test_parts_of_different_groups_are_refused() -> None:
    group, made, resolution = _voted("7", "3", "7")
    other_group, other_tally, _ = _voted("7", "3", "7", group_id=5)
    with pytest.raises(ValueError, match="one group"):
        reward(other_group, made, resolution, SECTION)
    with pytest.raises(ValueError, match="one group"):
        reward(group, other_tally, resolution, SECTION)
