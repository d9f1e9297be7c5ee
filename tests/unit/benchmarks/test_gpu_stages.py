"""What the stages of `make gpu-check` compute and order, without a device."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.gpu_check.engine_rate import engine_options, flags, their_side
from benchmarks.gpu_check.results import ROOT
from benchmarks.gpu_check.stages import STAGES
from benchmarks.gpu_check.training import step_figures, words
from benchmarks.gpu_check.transfer import num_weights
from benchmarks.gpu_models import adapter_parameters, training_operations
from benchmarks.shapes import Shape, shape_of
from quorum.errors import ConfigError

SMALL = Shape(hidden=8, intermediate=16, layers=2, heads=2, key_heads=1, vocabulary=10, is_tied=True)


def test_an_updates_operations_are_counted_by_hand() -> None:
    body = 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16)  # q, k and v, o, and the three of the feed-forward layer
    assert SMALL.body_parameters == body
    # 5 tokens, 3 of them scored; attention: 6 layers hidden T^2
    assert training_operations(SMALL, [2, 3], 3) == 6 * body * 5 + 6 * 80 * 3 + 6 * 2 * 8 * (4 + 9)
    adapters = adapter_parameters(SMALL, rank=1)
    assert adapters == 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    trained = training_operations(SMALL, [5], 0, adapter_parameters=adapters)
    assert trained == 4 * body * 5 + 6 * 2 * 8 * 25 + 6 * adapters * 5


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen2.5-0.5b", 0.494), ("qwen2.5-1.5b", 1.543), ("qwen2.5-7b", 7.615)]
)
def test_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert num_weights(name) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_an_unknown_shape_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no model shape '3b'; there are: .*qwen2\.5-0\.5b"):
        shape_of("3b")


def rate(**other: object) -> argparse.Namespace:
    values = {"model": "/m", "device": "cuda", "prompts": 64, "completions": 16, "prompt_tokens": 256}
    return argparse.Namespace(**(values | {"completion_tokens": 512, "running": 512, "repeats": 2} | other))


def test_both_sides_of_the_rate_are_told_the_same_of_batching_memory_and_graphs() -> None:
    command, environment = their_side(rate())
    told = engine_options(rate())
    for name, value in told.items():
        assert command[command.index(f"--{name.replace('_', '-')}") + 1] == str(value)
    assert "--enable-prefix-caching" in command
    assert not [word for word in command if "enforce-eager" in word], "CUDA graphs are off"
    assert not [word for word in command if "weight-transfer" in word or "worker-extension" in word]
    assert command[command.index("--max-model-len") + 1] == "768"
    assert command[command.index("--n") + 1] == "16"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


def test_engine_arguments_become_flags() -> None:
    given = {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32, "revision": None}
    assert flags(given) == ["--enforce-eager", "--no-enable-chunked-prefill", "--block-size", "32"]


def test_a_whole_run_shares_the_gpu_and_not_the_cpu(tmp_path) -> None:
    assert "cluster.colocate=true" in words(tmp_path, "cuda", False)
    assert "cluster.colocate=true" not in words(tmp_path, "cpu", True)


def test_a_runs_figures_leave_the_first_step_out_and_miss_nothing_that_was_not_checked() -> None:
    rows = [
        {"step": 0, "learn/num_updates": None},
        {
            "learn/num_updates": 1.0,
            "time/step_seconds": 9.0,
            "sync/num_checked_tensors": 4.0,
            "sync/logprob_gap_mean": 0.01,
            "vote/agreement_mean": 0.5,
        },
        {"learn/num_updates": 1.0, "time/step_seconds": 2.0, "sync/logprob_gap_mean": 0.03},
        {"learn/num_updates": 0.0, "time/step_seconds": 4.0, "vote/agreement_mean": 0.7},
    ]
    found = step_figures(rows)
    assert found["num_steps"] == 3 and found["num_updates"] == 2 and found["num_checked_tensors"] == 4
    assert found["step_seconds"] == 3.0
    assert found["logprob_gap_max"] == 0.03
    assert (found["agreement_first"], found["agreement_last"]) == (0.5, 0.7)
    assert step_figures([])["logprob_gap_max"] == float("inf")


@pytest.mark.parametrize("gap", [{}, {"sync/logprob_gap_mean": None}, {"sync/logprob_gap_mean": float("nan")}])
def test_a_step_with_updates_whose_gap_was_not_measured_meets_no_bound(gap: dict[str, float | None]) -> None:
    measured = {"learn/num_updates": 1.0, "sync/logprob_gap_mean": 0.01}
    assert step_figures([measured, {"learn/num_updates": 1.0, **gap}])["logprob_gap_max"] == float("inf")
    assert step_figures([{"learn/num_updates": 1.0, **gap}, measured])["logprob_gap_max"] == float("inf")
    assert step_figures([measured, {"learn/num_updates": 0.0, **gap}])["logprob_gap_max"] == 0.01


def test_the_page_lists_every_stage_in_order() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    table = page.partition("| stage |")[2].partition("\n\n")[0]
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert named == [stage.name for stage in STAGES]
    for stage in STAGES:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{stage.name}`"))
        for bound in stage.bounds:
            value = bound.at_least if bound.at_least is not None else bound.at_most
            assert f"{value:g}" in row or "pass" in row or bound.figure == "num_checked_tensors", (
                f"{stage.name}: {bound}"
            )
