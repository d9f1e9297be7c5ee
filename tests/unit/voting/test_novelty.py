"""Rewards by majority and novelty, computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import make_group
from tests.votes import section_of, tally_of
from voting.asking import finish
from voting.novelty import similarities
from voting.resolve import resolve
from voting.rewards import reward

TEXTS = st.lists(st.tuples(st.text("ab ", max_size=12), st.sampled_from(["7", "8", None])), min_size=1, max_size=8)


def _rewards(texts: list[str], answers: list[str | None], **options: Any) -> list[float]:
    tokens = [[ord(letter) for letter in text] for text in texts]
    group, made = make_group(tokens, texts=texts), tally_of(answers)
    section = section_of(rule={"name": "novelty", "options": options})
    scored = finish(reward(group, made, resolve([made], section)[0], section))
    return scored.rewards.tolist()


def _sequence(text: str) -> Any:
    return np.array([ord(letter) for letter in text], dtype=np.uint64)


def test_similarity_is_the_cosine_of_n_gram_counts() -> None:
    # Pairs of letters: abab = {ab: 2, ba: 1}, abb = {ab: 1, bb: 1}, zz = {zz: 1}; one letter is a unit of its own.
    alike = similarities([_sequence(text) for text in ("abab", "abb", "zz", "", "z")], 2)
    assert alike[0].tolist() == pytest.approx([1.0, 2 / math.sqrt(5 * 2), 0.0, 0.0, 0.0])
    assert alike[3].tolist() == [0.0] * 5
    assert alike[4].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert (alike == alike.T).all()


def test_rewards_lie_in_their_bands_by_novelty_within_each_side() -> None:
    # Letters alone (n=1). The label's side: aa, aa, ab, with cos(aa, ab) = 1/sqrt(2) = s. The other: cc, cd, s apart.
    s = 1 / math.sqrt(2)
    twins, odd = 1 - (0.5 * (1 + s) / 2 + 0.5 * 1), 1 - (0.5 * s + 0.5 * s)
    assert odd > twins
    rewards = _rewards(["aa", "aa", "ab", "cc", "cd", "zz"], ["7", "7", "7", "8", "8", None], n=1)
    assert rewards == pytest.approx([0.5, 0.5, 1.0, -0.75, -0.75, -1.0])


def test_the_greatest_similarity_is_to_anybody_who_answered_and_the_mean_to_ones_own_side() -> None:
    # aab of the label's side stands near aaab of the other; bcd of the label's side near nobody else.
    texts, answers = ["aab", "bcd", "aaab"], ["7", "7", "8"]
    near, far = 6 + 1, 1
    own = 1 / math.sqrt(5 * 3)
    novelty = [
        1 - (0.5 * own + 0.5 * near / math.sqrt(5 * 10)),
        1 - (0.5 * own + 0.5 * max(own, far / math.sqrt(3 * 10))),
    ]
    assert novelty[1] > novelty[0]
    assert _rewards(texts, answers, n=1)[:2] == [0.5, 1.0]
    # By the mean alone both are equally novel.
    assert _rewards(texts, answers, n=1, mean_share=1.0)[:2] == [0.75, 0.75]


def test_completions_that_are_all_alike_earn_the_middle() -> None:
    assert _rewards(["same"] * 4, ["7", "7", "7", "8"]) == [0.75, 0.75, 0.75, -0.75]


def test_tokens_can_be_the_units() -> None:
    texts, answers = ["abcd", "abce", "vwxyz"], ["7", "7", "7"]
    assert _rewards(texts, answers, unit="tokens", n=2) == _rewards(texts, answers, unit="characters", n=2)


def test_no_completion_of_a_tied_group_is_paid() -> None:
    assert _rewards(["ab", "cd"], ["7", "8"]) == [0.0, 0.0]


@given(completions=TEXTS, random=st.randoms())
def test_bands_hold_and_the_order_cannot_matter(completions: list[tuple[str, str | None]], random: Any) -> None:
    mixed = random.sample(completions, len(completions))
    paid = [_rewards([text for text, _ in each], [answer for _, answer in each], n=2) for each in (completions, mixed)]
    assert sorted(zip(map(repr, completions), paid[0], strict=True)) == sorted(
        zip(map(repr, mixed), paid[1], strict=True)
    )
    answers = [answer for _, answer in completions]
    if any(paid[0]):
        label = max(("7", "8"), key=answers.count)
        for answer, earned in zip(answers, paid[0], strict=True):
            assert earned == -1 if answer is None else 0.5 <= earned <= 1 if answer == label else -1 <= earned <= -0.5


def test_many_different_n_grams_are_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 200, 12_000).astype(np.uint64) for _ in range(4)]
    alike = similarities(sequences, 2)
    counts = [np.zeros((200, 200)) for _ in sequences]
    for table, sequence in zip(counts, sequences, strict=True):
        np.add.at(table, (sequence[:-1].astype(int), sequence[1:].astype(int)), 1)
    norm = [math.sqrt((table**2).sum()) for table in counts]
    expected = [(counts[0] * table).sum() / (norm[0] * length) for table, length in zip(counts, norm, strict=True)]
    assert alike[0].tolist() == pytest.approx(expected, rel=1e-14)
