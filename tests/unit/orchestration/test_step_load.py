"""Idle shares, bubbles, MFU, and what each sampler did in a step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.step_load import LearnerPeak, StepLoad, tokens_per_second

CONFIG = RunConfig.model_validate(
    {"run": {"dir": "r"}, "model": {"path": "data/demo/base"}, "data": {"train": [{"path": "p.jsonl"}]}}
)
TIMES = {"time/learn_seconds": 3.0, "time/sync_seconds": 1.0, "time/step_seconds": 10.0}


def plan(**fields: Any) -> Any:
    return SimpleNamespace(**{"device": "cpu", "num_ranks": 2, "colocate": False} | fields)


def vote() -> Any:
    receipt = SimpleNamespace(completion_tokens=(10, 20, 40), trained=(True, False, True))
    slot = SimpleNamespace(receipt=SimpleNamespace(num_prompt_tokens=5))
    return SimpleNamespace(groups=lambda: [(slot, None, None, receipt, None), (slot, None, None, None, None)])


def test_bubbles_are_the_mean_of_samplers_and_ranks_idle_time() -> None:
    values = TIMES | {"rollout/idle_share": 0.2, "rollout/num_samplers": 6.0, "learn/num_updates": 1.0}
    found = StepLoad(CONFIG, plan()).metrics(vote(), values)
    assert found == pytest.approx({"learn/idle_share": 0.6, "time/bubble_share": (6 * 0.2 + 2 * 0.6) / 8})


def test_what_cannot_be_measured_is_left_out() -> None:
    shared = StepLoad(CONFIG, plan(colocate=True)).metrics(vote(), TIMES | {"rollout/idle_share": 0.2})
    assert set(shared) == {"learn/idle_share"}
    assert StepLoad(CONFIG, plan(num_ranks=0)).metrics(vote(), TIMES) == {}


def test_mfu_is_six_flop_per_parameter_and_token_over_the_peak() -> None:
    load = StepLoad(CONFIG, plan(), [LearnerPeak(num_parameters=1000, peak_flops=1e6, num_epochs=2)])
    found = load.metrics(vote(), TIMES | {"learn/num_updates": 1.0})
    tokens = (10 + 40) + 2 * 5
    assert found["learn/mfu_share"] == pytest.approx(6 * 1000 * tokens * 2 / (3.0 * 1e6))
    assert "learn/mfu_share" not in load.metrics(vote(), TIMES | {"learn/num_updates": 0.0})


def test_the_peak_is_known_of_known_gpus_alone() -> None:
    gpu = plan(device="cuda", num_ranks=4)
    peak = LearnerPeak.of(CONFIG, gpu, ["CPU", "GPU", "accelerator_type:H100"])
    assert peak is not None and peak.peak_flops == 4 * 989e12 and peak.num_parameters > 500_000
    assert LearnerPeak.of(CONFIG, gpu, ["accelerator_type:H100", "accelerator_type:A100"]) is None
    assert LearnerPeak.of(CONFIG, gpu, ["accelerator_type:V100"]) is None
    assert LearnerPeak.of(CONFIG, plan(), ["accelerator_type:H100"]) is None


def test_tokens_per_second_are_summed_by_sampler() -> None:
    receipts: Any = [SimpleNamespace(sampler_id=name, num_tokens=n) for name, n in (("a", 10), ("b", 4), ("a", 20))]
    assert tokens_per_second(receipts, 2.0) == {"a": 15.0, "b": 2.0}
