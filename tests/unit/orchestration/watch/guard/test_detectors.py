"""Each detector on rows made by hand: what trips it, what must not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestration.watch.guard.detectors import (
    Detector,
    Drift,
    DriftOptions,
    PeakLoss,
    PeakLossOptions,
    Scissors,
    ScissorsOptions,
)

SHARE = "eval/anchor_vote_share"


def levels(detector: Detector, values: Sequence[float | None], metric: str = SHARE) -> list[float | None]:
    readings = [detector.update({metric: value}, step) for step, value in enumerate(values)]
    return [None if reading is None else reading.level for reading in readings]


def test_a_peak_that_is_lost_trips_at_its_share_and_names_the_peak() -> None:
    detector = PeakLoss(PeakLossOptions(metric=SHARE, loss=0.1))
    assert levels(detector, [0.5, 0.8, 0.76]) == [0.0, 0.0, pytest.approx(0.5)]
    reading = detector.update({SHARE: 0.72}, 3)
    assert reading is not None and reading.level == pytest.approx(1.0) and reading.onset == 1
    assert "72.0%, 80.0% after 1 steps" in reading.reason


def test_one_lucky_reading_is_no_peak_where_it_must_persist() -> None:
    detector = PeakLoss(PeakLossOptions(metric=SHARE, loss=0.1, persist=2))
    assert levels(detector, [0.5, 0.9, 0.5, 0.5, 0.5])[-1] == 0.0


def test_a_small_drop_of_a_small_share_is_noise() -> None:
    detector = PeakLoss(PeakLossOptions(metric=SHARE, loss=0.1, min_drop=0.05))
    assert levels(detector, [0.1, 0.08])[-1] == pytest.approx(0.4)


def test_a_missing_metric_abstains_and_leaves_no_trace() -> None:
    for detector in (
        PeakLoss(PeakLossOptions(metric=SHARE, loss=0.1)),
        Drift(DriftOptions(metric=SHARE)),
        Scissors(ScissorsOptions(agreement="eval/agreement_mean", gain=0.1, metric=SHARE, change=0.1)),
    ):
        before = repr(detector)
        assert levels(detector, [None, None]) == [None, None] and detector.update({}, 2) is None
        assert repr(detector) == before


def test_drift_needs_history_and_an_effect_beyond_noise_and_least_change() -> None:
    options = DriftOptions(metric=SHARE, change=0.1, baseline="first", window=10, min_history=4)
    calm = [0.2, 0.21, 0.2, 0.21]
    assert levels(Drift(options), [*calm, 0.25, 0.32])[:4] == [None] * 4
    assert levels(Drift(options), [*calm, 0.25])[-1] == pytest.approx(0.45)
    assert levels(Drift(options), [*calm, 0.31])[-1] == 1.0
    noisy = [0.1, 0.3, 0.1, 0.3]
    assert levels(Drift(options), [*noisy, 0.4])[-1] == pytest.approx(0.2 / (6 * 1.4826 * 0.2 / 2**0.5))


def test_drift_against_the_first_values_sees_a_creep_and_against_the_past_does_not() -> None:
    creep = [0.1 + 0.002 * step for step in range(200)]
    first = DriftOptions(metric=SHARE, change=0.15, baseline="first", window=10, min_history=5)
    past = DriftOptions(metric=SHARE, change=0.15, baseline="past", window=20, min_history=20)
    assert levels(Drift(first), creep)[-1] == 1.0
    assert max(level for level in levels(Drift(past), creep) if level is not None) < 0.2


def test_drift_down_and_both_ways_by_a_factor() -> None:
    down = DriftOptions(metric=SHARE, direction="down", factor=2.0, baseline="first", window=5, min_history=5)
    assert levels(Drift(down), [0.4] * 5 + [0.8, 0.3, 0.2])[-3:] == [0.0, pytest.approx(0.5), 1.0]
    both = DriftOptions(metric=SHARE, direction="both", factor=2.0, baseline="first", window=5, min_history=5)
    assert levels(Drift(both), [0.4] * 5 + [0.8, 0.2])[-2:] == [1.0, 1.0]


def test_drift_waits_until_it_persists() -> None:
    options = DriftOptions(metric=SHARE, change=0.1, baseline="first", window=5, min_history=5, persist=2)
    assert levels(Drift(options), [0.1] * 5 + [0.9, 0.1, 0.9, 0.9])[-4:] == [0.0, 0.0, 0.0, 1.0]


def rows(agreement: Sequence[float], anchor: Sequence[float]) -> list[dict[str, float]]:
    return [{"eval/agreement_mean": a, SHARE: b} for a, b in zip(agreement, anchor, strict=True)]


def test_scissors_trip_when_agreement_rises_while_the_anchor_is_left_and_not_for_one_alone() -> None:
    options = ScissorsOptions(agreement="eval/agreement_mean", gain=0.1, metric=SHARE, change=0.1)

    def last(agreement: list[float], anchor: list[float]) -> float:
        detector = Scissors(options)
        readings = [detector.update(row, step) for step, row in enumerate(rows(agreement, anchor))]
        assert readings[-1] is not None
        return readings[-1].level

    assert last([0.5, 0.6, 0.8], [0.5, 0.6, 0.5]) == 1.0
    assert last([0.5, 0.6, 0.8], [0.5, 0.6, 0.7]) == 0.0  # both rise: learning
    assert last([0.5, 0.6, 0.5], [0.5, 0.6, 0.5]) == 0.0  # both fall: noise, or exploration


def test_scissors_watch_entropy_upwards() -> None:
    options = ScissorsOptions(
        agreement="vote/reward_mean", gain=0.05, metric="learn/entropy_mean", worse="up", change=0.5
    )
    detector = Scissors(options)
    for step, (reward, entropy) in enumerate([(0.4, 0.3), (0.5, 0.2), (0.6, 0.3)]):
        reading = detector.update({"vote/reward_mean": reward, "learn/entropy_mean": entropy}, step)
    assert reading is not None and reading.level == pytest.approx(1.0) and reading.onset == 1
    assert "since step 1 vote/reward_mean went from 0.5 to 0.6" in reading.reason
