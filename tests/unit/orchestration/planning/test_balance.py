"""Samplers against ranks, rates from a file or a run, and the study of scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.planning.balance import best_split, expected_step, splits
from orchestration.planning.rates import Rates, busy_rate, read_rates
from orchestration.planning.scale_fit import PUBLISHED_COSTS, PUBLISHED_RATES, fit_driver, fit_of_file, published
from orchestration.planning.scale_study import project
from quorum.errors import ConfigError

RATES = Rates(sampler_tokens_per_second=1000.0, learner_tokens_per_second=500.0, mean_completion_tokens=100.0)


def make_config(rollout: dict[str, Any] | None = None, **learner: Any) -> RunConfig:
    """16 x 16 completions of a step."""
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"path": "unused"},
            "data": {"train": [{"path": "unused.jsonl"}]},
            "rollout": rollout or {},
            "learner": {"importance": {"mode": "truncate"}, "old_logprobs": "current", **learner},
        }
    )


def test_a_strict_step_is_the_sum_and_an_overlapped_one_the_slower_side() -> None:
    strict = expected_step(make_config(), RATES, 2, 4, 1.0)
    overlapped = expected_step(make_config({"max_off_policy_steps": 1}), RATES, 2, 4, 1.0)
    assert (strict.rollout_seconds, strict.learn_seconds) == (12.8, 12.8)
    assert strict.seconds == pytest.approx(26.6)
    assert overlapped.seconds == pytest.approx(13.8)


def test_the_best_split_balances_both_sides() -> None:
    config = make_config({"max_off_policy_steps": 1})
    best = best_split(config, 12, 8, fits=lambda _: True, step=lambda s, r: expected_step(config, RATES, s, r, 0.0))
    assert best is not None
    assert (best.num_samplers, best.num_ranks) == (4, 8)  # a sampler is twice as fast as a rank


def test_the_best_split_gives_ranks_the_memory_that_they_need() -> None:
    config = make_config({"max_off_policy_steps": 1})

    def step(samplers: int, ranks: int) -> Any:
        return expected_step(config, RATES, samplers, ranks, 0.0)

    best = best_split(config, 12, 8, fits=lambda ranks: ranks >= 10, step=step)
    assert best is not None
    assert best.num_ranks == 10
    assert best_split(config, 12, 8, fits=lambda _: False, step=step) is None


def test_workers_of_a_sampler_share_a_node_and_ranks_share_sequences() -> None:
    config = make_config({"tensor_parallel_size": 4}, num_ranks=2, sequence_parallel_size=2)
    assert list(splits(config, 12, 6)) == [(2, 2), (2, 4), (1, 6), (1, 8)]


def test_rates_come_from_a_file_and_wrong_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    values = {"sampler_tokens_per_second": 10, "learner_tokens_per_second": 20, "mean_completion_tokens": 30}
    path.write_text(json.dumps(values))
    assert read_rates(str(path)).learner_tokens_per_second == 20
    path.write_text(json.dumps(values | {"tokens": 1}))
    with pytest.raises(ConfigError, match="tokens"):
        read_rates(str(path))
    path.write_text(json.dumps({"sampler_tokens_per_second": 10}))
    with pytest.raises(ConfigError, match="learner_tokens_per_second"):
        read_rates(str(path))


def test_a_samplers_rate_is_that_of_its_busy_seconds() -> None:
    row = {
        "rollout/tokens_per_second": 300.0,
        "rollout/num_samplers": 2.0,
        "rollout/idle_share": 0.5,
        "time/step_seconds": 20.0,
        "time/rollout_seconds": 10.0,
    }
    assert busy_rate(row, overlaps=False) == 150.0  # 3,000 tokens in 2 x 10 busy seconds
    assert busy_rate(row, overlaps=True) == 300.0  # 6,000


def test_the_driver_fit_gives_back_the_published_points_within_two_percent() -> None:
    fit = published()
    for samplers, rate in PUBLISHED_RATES.items():
        assert fit.groups_per_second(samplers) == pytest.approx(rate, rel=0.02)
    for samplers, cost in PUBLISHED_COSTS.items():
        assert fit.milliseconds(samplers) == pytest.approx(cost, rel=0.02)


def test_a_cost_that_grows_with_the_samplers_is_fitted_from_a_benchmarks_output(tmp_path: Path) -> None:
    rates = {1: 1.0, 64: 64.0, 256: 256.0, 1024: 700.0}
    costs = {1: 4.0, 64: 0.6 + 0.064, 256: 0.6 + 0.256, 1024: 0.6 + 1.024}
    line = {f"groups_per_second_{n}": v for n, v in rates.items()}
    line |= {f"controller_ms_per_group_at_{n}": v for n, v in costs.items()}
    path = tmp_path / "scale.txt"
    path.write_text("1 samplers: 1.0 groups/s\nRESULT " + json.dumps(line | {"bench": "scale"}) + "\n")
    fit = fit_of_file(path)
    assert fit == fit_driver(rates, costs)
    assert (fit.base, fit.slope) == (pytest.approx(0.6), pytest.approx(0.001))
    assert fit.groups_per_second(1024) == pytest.approx(700.0)
    path.write_text("nothing")
    with pytest.raises(ConfigError, match="bench scale"):
        fit_of_file(path)


def test_what_does_not_grow_with_the_gpus_takes_a_larger_share_of_a_larger_run() -> None:
    small, large = (project("1.5B", gpus, published()) for gpus in (64, 1000))
    assert small is not None and large is not None
    assert large.load > small.load
    assert large.step_seconds == pytest.approx(small.step_seconds, rel=0.1)  # weak scaling
