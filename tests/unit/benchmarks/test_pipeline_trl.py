"""The comparison with TRL: both sides are paid the same rewards, and work that differs is refused."""

from __future__ import annotations

import random

import pytest

from benchmarks.models import CHARACTERS
from benchmarks.pipeline_trl import WORKLOADS, Pair, candidates, check_same_work, figures, run_pipeline_trl
from benchmarks.trl_side import Steps, majority_rewards
from orchestration.registries import load_run_config
from quorum.errors import ConfigError, StageError
from voting import vote

PAIRS = [
    Pair(2.0, 6.0, 77.0, 76.0, 0.2, 0.2),
    Pair(1.0, 4.0, 77.0, 78.0, 0.3, 0.2),
    Pair(4.0, 8.0, 77.0, 77.0, 0.1, 0.1),
]


def texts(seed: int, longest: int = 12) -> list[str]:
    """What a random model writes; 16 completions with a digit in some of them."""
    rng = random.Random(seed)
    return ["".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, longest))) for _ in range(15)] + ["7"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("longest", [4, 80])
def test_both_sides_are_paid_the_same_rewards(seed: int, longest: int) -> None:
    """The preset's vote against the few lines of TRL's side."""
    completions = texts(seed, longest)
    section = load_run_config("bench", ["model.path=m", "data.train.0.path=p"]).voting
    [voted] = vote([completions], section)
    assert majority_rewards(["p"] * 16, completions) == voted.rewards.tolist()


def test_groups_are_told_apart_by_their_prompts_and_nobody_agrees_where_nobody_answers() -> None:
    prompts = ["a", "b", "a", "b", "a", "c"]
    assert majority_rewards(prompts, ["1", "2", "3", "2", "=3", "none"]) == [0, 1, 1, 1, 1, 0]


def test_a_step_is_counted_from_what_the_trainer_drew() -> None:
    steps = Steps()
    steps.rewards(prompts=["a", "a"], completions=["1", "x"], completion_ids=[[5], [6, 7, 8]])
    assert steps.fields() == {"completions": 2, "tokens": 4, "reward_mean": 0.5}
    steps.clear()
    assert steps.fields()["completions"] == 0


def test_the_ratio_is_the_median_of_the_pairs_and_rates_are_completions_per_second() -> None:
    found = figures(WORKLOADS["spread"], PAIRS)
    assert found["over_trl"] == 3.0 and found["over_trl"].values == (3.0, 4.0, 2.0)
    assert (found["completions_per_second"], found["trl_completions_per_second"]) == (256.0, pytest.approx(512 / 6))


def test_sides_whose_completions_differ_in_length_are_not_compared() -> None:
    check_same_work(PAIRS)
    with pytest.raises(StageError, match=r"90\.0 tokens in the mean here and 77\.0 with TRL"):
        check_same_work([Pair(1.0, 3.0, 90.0, 77.0, 0.2, 0.2)])


def test_workloads_are_those_that_are_named_and_on_a_gpu_trl_is_given_vllm() -> None:
    spread, short = WORKLOADS["spread"], WORKLOADS["short"]
    assert (spread.prompts, spread.k, spread.max_tokens) == (32, 16, 192)
    assert (short.prompts, short.k, short.max_tokens) == (64, 16, 4)
    assert all(settings["use_vllm"] for settings in candidates(spread, "cuda").values())
    assert not any(settings.get("use_vllm") for settings in candidates(spread, "cpu").values())
    with pytest.raises(ConfigError, match="there are: spread, short"):
        run_pipeline_trl(1, 0, None, workload="long")
