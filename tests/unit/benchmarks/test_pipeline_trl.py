"""The comparison with TRL: both sides are paid the same rewards, and work that differs is refused."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import pipeline_trl, trl_side
from benchmarks.models import CHARACTERS
from benchmarks.pipeline_trl import (
    WORKLOADS,
    Pair,
    candidates,
    check_same_work,
    figures,
    our_settings,
    run_pipeline_trl,
)
from benchmarks.trl_side import Steps, TrlWork, is_enough, majority_rewards, try_all
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
    found = figures(WORKLOADS["spread"], PAIRS, 3.5)
    assert found["over_trl"] == 3.0 and found["over_trl"].values == (3.0, 4.0, 2.0)
    assert (found["completions_per_second"], found["trl_completions_per_second"]) == (256.0, pytest.approx(512 / 6))
    assert (found["trl_step_seconds"], found["trl_tried_seconds"]) == (6.0, 3.5)


@pytest.mark.parametrize(("cores", "half"), [(1, 1), (2, 1), (9, 4), (16, 8)])
def test_both_sides_have_the_cores_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, cores: int, half: int
) -> None:
    told: dict[str, Any] = {}

    class FakeChild:
        def __init__(self, name: str, module: str, env: dict[str, str]) -> None:
            told["env"] = env

        def tell(self, order: dict[str, Any]) -> None:
            told["work"] = order["work"]

    monkeypatch.setattr(pipeline_trl, "Child", FakeChild)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    pipeline_trl._start_trl(WORKLOADS["short"], Path("m"), Path("p"), 1e-6, "cpu")
    assert told["work"]["threads"] == cores and told["env"]["OMP_NUM_THREADS"] == str(cores)
    config = load_run_config("bench", ["model.path=m", "data.train.0.path=p", *our_settings(WORKLOADS["short"])])
    assert (config.cluster.cpus_per_sampler, config.cluster.cpus_per_rank) == (half, half)


def test_trls_settings_are_judged_by_their_fastest_warm_step_and_given_up_by_their_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = {"slow start": [8.0, 2.0, 1.0, 3.0], "fast start": [4.0, 2.5, 2.6, 2.4], "hopeless": [12.1], "unable": "no"}
    limits = []

    def try_out(work: TrlWork, settings: dict[str, str], limit: float) -> list[float] | str:
        limits.append(limit)
        return steps[settings["name"]]

    monkeypatch.setattr(trl_side, "try_out", try_out)
    found = try_all(TrlWork("m", "p", 1, 1, 1, 0.1, 1, "cpu"), {name: {"name": name} for name in steps})
    assert (found["slow start"], found["fast start"], found["unable"]) == (1.0, 2.4, "no")
    assert "12.1 s, another's 4.0 s" in str(found["hopeless"])
    assert limits == [math.inf, 24.0, 12.0, 12.0], "cold steps are compared with cold ones"


@pytest.mark.parametrize(("limit", "num_steps"), [(math.inf, 4), (-1.0, 1)])
def test_a_try_is_one_trainer_that_stops_once_its_steps_are_enough(
    monkeypatch: pytest.MonkeyPatch, limit: float, num_steps: int
) -> None:
    made = []

    class FakeTrainer:
        def add_callback(self, callback: Any) -> None:
            self.callback = callback

        def train(self) -> None:
            control = SimpleNamespace(should_training_stop=False)
            while not control.should_training_stop:
                self.callback.on_step_begin(None, None, control)
                self.callback.on_step_end(None, None, control)

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(TrainerCallback=object))
    monkeypatch.setattr(trl_side, "make_trainer", lambda *_, **more: made.append(more) or FakeTrainer())
    found = trl_side.try_out(TrlWork("m", "p", 1, 1, 1, 0.1, 1, "cpu"), {}, limit)
    assert len(found) == num_steps and all(isinstance(seconds, float) for seconds in found)
    assert made == [{"max_steps": 4}]


def test_a_try_ends_after_a_hopeless_first_step_or_three_warm_ones_or_a_long_time() -> None:
    assert not is_enough([5.0], 6.0) and is_enough([7.0], 6.0)
    assert not is_enough([5.0, 4.0, 7.0], 6.0) and is_enough([5.0, 4.0, 4.0, 4.0], 6.0)
    assert not is_enough([119.0], 400.0) and is_enough([119.0, 50.0], 400.0)


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
