"""The accuracy-against-agreement curve: hand-counted, against its formula, and pooled."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.watch.thresholds import THRESHOLDS, AgreementPoint, pooled, threshold_curve, threshold_row
from tests.unit.orchestration.watch.run_builder import make_score


def at(curve: dict[str, list[float | None]], threshold: float) -> tuple[float | None, ...]:
    index = curve["threshold"].index(threshold)
    return tuple(curve[name][index] for name in ("kept_share", "majority_accuracy", "average_accuracy"))


def test_a_hand_counted_curve() -> None:
    points = [AgreementPoint(0.9, True, 0.9), AgreementPoint(0.5, False, 0.25), AgreementPoint(0.25, False, 0.2)]
    curve = threshold_curve([*points, AgreementPoint(0.0, False, 0.0)])
    assert at(curve, 0.0) == (1.0, 1 / 4, pytest.approx(1.35 / 4))
    assert at(curve, 0.25) == (3 / 4, 1 / 3, pytest.approx(1.35 / 3))
    assert at(curve, 0.3) == at(curve, 0.5) == (2 / 4, 1 / 2, pytest.approx(1.15 / 2))
    assert at(curve, 0.55) == at(curve, 0.9) == (1 / 4, 1.0, 0.9)
    assert at(curve, 0.95) == at(curve, 1.0) == (0.0, None, None)


def test_prompts_on_a_threshold_are_kept_whatever_its_binary_digits() -> None:
    assert len(THRESHOLDS) == 21 and THRESHOLDS[0] == 0 and THRESHOLDS[-1] == 1
    for index in range(21):
        kept = threshold_curve([AgreementPoint(index / 20, True, 1.0)])["kept_share"]
        assert kept == [1.0] * (index + 1) + [0.0] * (20 - index)


def test_no_prompts_give_no_curve() -> None:
    assert threshold_curve([]) == {} and threshold_row([]) == {} and pooled([]) == {}


def test_a_row_has_the_curve_of_all_prompts_and_of_each_data_source() -> None:
    scores = [
        make_score([True, True, True, False], majority=True, ratio=0.75, source="b"),
        make_score([True, False, False, False], ratio=0.5, source="a"),
        make_score([False] * 4, ratio=0.0, source="a"),
    ]
    row = threshold_row(scores)
    assert row["num_prompts"] == 3 and list(row["sources"]) == ["a", "b"]
    assert at(row, 0.5) == (pytest.approx(2 / 3), 1 / 2, 1 / 2)
    assert row["sources"]["a"]["num_prompts"] == 2 and at(row["sources"]["a"], 0.5) == (1 / 2, 0.0, 1 / 4)
    assert at(row["sources"]["b"], 0.75) == (1.0, 1.0, 0.75)


def prompts(k: int = 8) -> st.SearchStrategy[tuple[int, int, bool]]:
    return st.tuples(st.integers(0, k), st.integers(0, k), st.booleans())


@given(st.lists(prompts(), min_size=1, max_size=12))
def test_the_curve_agrees_with_its_formula_in_fractions(drawn: list[tuple[int, int, bool]]) -> None:
    curve = threshold_curve([AgreementPoint(size / 8, right, count / 8) for size, count, right in drawn])
    for index in range(21):
        kept = [(count, right) for size, count, right in drawn if Fraction(size, 8) >= Fraction(index, 20)]
        assert curve["kept_share"][index] == pytest.approx(len(kept) / len(drawn))
        if kept:
            assert curve["majority_accuracy"][index] == pytest.approx(sum(right for _, right in kept) / len(kept))
            assert curve["average_accuracy"][index] == pytest.approx(sum(count / 8 for count, _ in kept) / len(kept))
        else:
            assert curve["majority_accuracy"][index] is None and curve["average_accuracy"][index] is None
    kept_shares = curve["kept_share"]
    assert kept_shares[0] == 1.0 and kept_shares == sorted(kept_shares, key=lambda share: -float(share or 0))


@given(st.lists(st.lists(prompts(), min_size=1, max_size=5), min_size=1, max_size=4))
def test_pooled_curves_are_the_curve_of_all_their_prompts(steps: list[list[tuple[int, int, bool]]]) -> None:
    points = [[AgreementPoint(size / 8, right, count / 8) for size, count, right in step] for step in steps]
    rows = [{"num_prompts": len(step), **threshold_curve(step)} for step in points]
    whole = threshold_curve([point for step in points for point in step])
    joint = pooled(rows)
    assert joint["num_prompts"] == sum(map(len, steps))
    for name, values in whole.items():
        assert joint[name] == [None if value is None else pytest.approx(value) for value in values]
