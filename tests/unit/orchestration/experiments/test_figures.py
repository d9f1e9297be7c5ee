"""Figures and bands on rows made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from configs.schema import Plugin
from orchestration.experiments.curves import RunCurves, arm_curve, band, read_run, t_quantile
from orchestration.experiments.figures import decide
from orchestration.watch.jsonl import append_rows

ACCURACY, AGREEMENT = "eval/average_accuracy", "eval/agreement_mean"


def run(arm: str, seed: int, accuracy: list[float], agreement: list[float] | None = None) -> RunCurves:
    series = {ACCURACY: dict(enumerate(accuracy))}
    if agreement is not None:
        series[AGREEMENT] = dict(enumerate(agreement))
    return RunCurves(arm, seed, series)


def figure(name: str, runs: dict[str, list[RunCurves]], **options: str) -> float | None:
    return decide({"x": Plugin(name=name, options=options)}, runs)["x"]


RUNS = {
    "srt": [run("srt", 0, [0.2, 0.6, 0.5], [0.3, 0.5, 0.9]), run("srt", 1, [0.2, 0.4, 0.4], [0.3, 0.9, 0.5])],
    "gold": [run("gold", 0, [0.2, 0.6]), run("gold", 1, [0.2, 0.8])],
    "still": [run("still", 0, [0.2, 0.2])],
}


def test_a_gain_is_last_minus_first_averaged_over_seeds() -> None:
    assert figure("gain", RUNS, arm="srt") == pytest.approx((0.3 + 0.2) / 2)
    assert figure("final", RUNS, arm="srt") == pytest.approx(0.45)


def test_a_share_is_of_mean_gains_and_undefined_where_the_measure_gained_nothing() -> None:
    assert figure("share_of", RUNS, arm="srt", of="gold") == pytest.approx(0.25 / 0.5)
    assert figure("share_of", RUNS, arm="srt", of="still") is None
    assert figure("share_of", RUNS, arm="absent", of="gold") is None


def test_what_is_kept_of_the_peak_shows_a_collapse() -> None:
    assert figure("final_over_peak", RUNS, arm="srt") == pytest.approx((0.5 / 0.6 + 1) / 2)


def test_the_gap_of_a_label_free_choice_is_what_the_best_evaluation_had_more() -> None:
    assert figure("pick_gap", RUNS, arm="srt") == pytest.approx((0.1 + 0.0) / 2)
    assert figure("pick_gap", RUNS, arm="gold") is None, "no agreement was measured there"


def test_an_arm_with_one_evaluation_has_no_gain() -> None:
    assert figure("gain", {"srt": [run("srt", 0, [0.2])]}, arm="srt") is None


def test_a_band_is_the_t_interval_and_one_seed_has_none() -> None:
    found = band([1.0, 2.0, 3.0])
    half = 4.303 / math.sqrt(3)  # t with 2 degrees of freedom, standard deviation 1
    assert found == pytest.approx((2.0, 2.0 - half, 2.0 + half, 3))
    assert band([0.5]) == (0.5, None, None, 1)
    with pytest.raises(ValueError, match="no seeds"):
        band([])


def test_the_quantiles_fall_to_the_normal_one_without_a_jump() -> None:
    values = [t_quantile(degrees) for degrees in range(1, 200)]
    assert all(a > b for a, b in zip(values, values[1:], strict=False))
    assert t_quantile(31) == pytest.approx(2.0395, abs=5e-4)
    with pytest.raises(ValueError, match="want at least 1"):
        t_quantile(0)


def test_a_curve_has_the_steps_that_every_seed_has_measured() -> None:
    curve = arm_curve([run("a", 0, [0.1, 0.2, 0.3]), run("a", 1, [0.3, 0.4])], ACCURACY)
    assert {step: round(point.mean, 3) for step, point in curve.items()} == {0: 0.2, 1: 0.3}
    assert arm_curve([], ACCURACY) == {}


def test_a_run_is_read_with_its_superseded_rows_left_out(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    place = {"branch": 0, "incarnation": 0}
    rows = [{"step": step, **place, "vote/reward_mean": 0.1} for step in (0, 1)]
    append_rows(
        tmp_path / "metrics.jsonl", [*rows, {"step": 1, "branch": 0, "incarnation": 1, "vote/reward_mean": 0.7}]
    )
    scored = {"step": 0, **place, ACCURACY: 0.25, "sources": {"sums": {}}}
    append_rows(tmp_path / "audit" / "eval.jsonl", [scored])
    found = read_run("srt", 3, tmp_path)
    assert found.series["vote/reward_mean"] == {0: 0.1, 1: 0.7}
    assert found.series[ACCURACY] == {0: 0.25} and list(found.evaluations) == [0]
