"""Which completions are trained on when more vote: how many, of which answers, by what chance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import TrainSubsetSection
from quorum.types import Outcome
from tests.votes import RAW, tally_of
from voting.asking import finish
from voting.subset import choose_trained, too_certain
from voting.tally import cluster

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=24)
WAYS = st.sampled_from(["first", "random", "stratified"])


def _chosen(answers: list[Any], num: int | None, choose: Any = "first", seed: int = 0, group_id: int = 0) -> list[int]:
    section = TrainSubsetSection(num_completions=num, choose=choose, seed=seed)
    mask = choose_trained(tally_of(answers, group_id=group_id), section)
    assert (mask.shape, mask.dtype) == ((len(answers),), np.bool_)
    return [int(i) for i in np.flatnonzero(mask)]


def _counts(answers: list[Any], chosen: list[int]) -> Counter[Any]:
    return Counter(answers[i] for i in chosen)


@given(ANSWERS, st.one_of(st.none(), st.integers(1, 30)), WAYS)
def test_as_many_as_asked_for_are_chosen_or_all(answers: list[Any], num: int | None, choose: str) -> None:
    assert len(_chosen(answers, num, choose)) == min(len(answers), num or len(answers))


def test_the_first_are_the_first() -> None:
    assert _chosen(["7", "3", None, "7"], 3) == [0, 1, 2]


@given(ANSWERS, st.integers(1, 24))
def test_every_answer_gets_its_share_of_a_stratified_choice_to_within_one(answers: list[Any], num: int) -> None:
    counts = _counts(answers, _chosen(answers, num, "stratified"))
    k = len(answers)
    for answer, size in Counter(answers).items():
        exact = size * min(num, k) / k
        assert exact - 1 < counts[answer] < exact + 1


def test_the_largest_remainders_are_served_first_then_the_larger_answer_then_the_first_name() -> None:
    answers = ["7"] * 5 + ["8"] * 2 + [None]
    assert _counts(answers, _chosen(answers, 4, "stratified")) == {"7": 3, "8": 1}
    assert _counts(answers, _chosen(answers, 5, "stratified")) == {"7": 3, "8": 1, None: 1}
    assert _counts(["9", "8"] * 2, _chosen(["9", "8"] * 2, 1, "stratified")) == {"8": 1}
    assert _counts(["9", "8", "8", "9"], _chosen(["9", "8", "8", "9"], 3, "stratified")) == {"8": 2, "9": 1}


@given(ANSWERS, st.integers(1, 24), st.randoms())
def test_the_shares_of_a_stratified_choice_do_not_depend_on_order(answers: list[Any], num: int, random: Any) -> None:
    shuffled = random.sample(answers, len(answers))
    assert _counts(answers, _chosen(answers, num, "stratified")) == _counts(
        shuffled, _chosen(shuffled, num, "stratified")
    )


def test_an_empty_answer_and_abstentions_share_alike_in_any_order() -> None:
    def taken(answers: list[Any], group_id: int) -> Counter[Any]:
        made = finish(cluster(group_id, answers, RAW))
        mask = choose_trained(made, TrainSubsetSection(num_completions=1, choose="stratified"))
        return Counter(answers[i] for i in np.flatnonzero(mask))

    for group_id in range(12):
        assert taken(["", None], group_id) == taken([None, ""], group_id)


@pytest.mark.parametrize("choose", ["random", "stratified"])
def test_chance_is_the_seeds_and_the_groups(choose: str) -> None:
    answers = ["7"] * 16
    assert _chosen(answers, 4, choose) == _chosen(answers, 4, choose)
    others = {tuple(_chosen(answers, 4, choose, seed=seed, group_id=group)) for seed in (0, 1) for group in range(4)}
    assert len(others) > 6


def test_a_random_choice_favours_no_position() -> None:
    counts = Counter(i for group in range(400) for i in _chosen(["7"] * 8, 2, "random", group_id=group))
    assert sum(counts.values()) == 800
    assert all(60 < counts[i] < 140 for i in range(8))


def test_completions_of_outlying_low_entropy_are_left_out_of_those_chosen() -> None:
    """Sorted 0.1, 0.5, 1, 1, 2, 2: Q1 = 0.625, Q3 = 1.75, so Q1 - 0.5 * IQR = 0.0625 and Q1 - 0.25 * IQR = 0.34375."""
    tally = replace(tally_of(["7"] * 6), entropies=(1.0, 0.1, 2.0, 0.5, 1.0, 2.0))
    assert not too_certain(tally, 0.5).any()
    assert np.flatnonzero(too_certain(tally, 0.25)).tolist() == [1]
    for num, expected in ((None, [0, 2, 3, 4, 5]), (3, [0, 2])):
        section = TrainSubsetSection(num_completions=num, entropy_iqr=0.25)
        assert np.flatnonzero(choose_trained(tally, section)).tolist() == expected
    assert choose_trained(tally, TrainSubsetSection()).all()
    assert choose_trained(tally_of(["7"] * 6), TrainSubsetSection(entropy_iqr=0.25)).all(), "entropies are not known"


def test_a_stopped_completion_has_no_part_in_the_quartiles() -> None:
    outcomes = (Outcome.ANSWERED,) * 4 + (Outcome.STOPPED,) * 4
    tally = replace(tally_of(["7"] * 8), outcomes=outcomes, entropies=(1.0, 1.0, 1.0, 0.9) + (0.0,) * 4)
    assert np.flatnonzero(too_certain(tally, 0.75)).tolist() == [3]


@given(entropies=st.lists(st.floats(0, 5), min_size=1, max_size=16), reach=st.floats(0, 3), random=st.randoms())
def test_somebody_is_always_left_and_the_order_cannot_matter(entropies: list[float], reach: float, random: Any) -> None:
    order = random.sample(range(len(entropies)), len(entropies))
    made = [
        too_certain(replace(tally_of(["7"] * len(values)), entropies=tuple(values)), reach)
        for values in (entropies, [entropies[i] for i in order])
    ]
    assert not made[0].all()
    assert made[1].tolist() == made[0][order].tolist()
