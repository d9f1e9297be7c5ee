"""Weights and penalties of groups, applied to advantages whatever the algorithm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from configs.schema import LearnerSection, OverlongSection
from learner.step_table import StepTable
from quorum.types import ScoreReceipt
from tests.builders import make_completion, make_group, make_receipt, make_scored

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from learner.advantages import Advantage  # noqa: E402
from learner.passes import Passes  # noqa: E402

ALGORITHMS = ("rloo", "grpo", "dr_grpo", "reinforce", "reinforce_pp", "reinforce_pp_baseline")
LENGTHS = (2, 3, 4)


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def receipts() -> list[ScoreReceipt]:
    made = []
    for group_id, rewards in enumerate(([1.0, 0.0, 0.0], [0.25, 0.5, 1.0], [0.0, 0.0, 0.0])):
        completions = [make_completion(i, [5] * length) for i, length in enumerate(LENGTHS)]
        made.append(make_receipt(make_scored(make_group(completions, group_id=group_id), rewards)))
    return made


def advantages(given: list[ScoreReceipt], algorithm: str) -> dict[tuple[int, int], np.ndarray]:
    table = StepTable.of(given, OverlongSection(), 10)
    rows = [(group, index) for group in range(len(given)) for index in range(len(LENGTHS))]
    section = LearnerSection.model_validate({"algorithm": algorithm})
    return dict(Advantage(section, torch.device("cpu"))(table, rows, Passes(), 0.0).tokens)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_advantage_is_lowered_by_the_penalty_and_multiplied_by_the_weight(algorithm: str) -> None:
    plain = advantages(receipts(), algorithm)
    first, second, third = receipts()
    given = [replace(first, weight=0.5), replace(second, penalty=0.25), replace(third, weight=2.0, penalty=1.0)]
    weighed = advantages(given, algorithm)
    for (group, index), values in plain.items():
        weight, penalty = given[group].weight, given[group].penalty
        assert weighed[group, index] == pytest.approx(weight * (values - penalty), abs=1e-6)
    if algorithm == "rloo":
        assert weighed[0, 0].tolist() == [0.5] * 2 and weighed[2, 1].tolist() == [-2.0] * 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_weight_one_and_no_penalty_nothing_changes_by_a_bit(algorithm: str) -> None:
    table = StepTable.of(receipts(), OverlongSection(), 10)
    assert not table.is_weighed
    plain = advantages(receipts(), algorithm)
    others = receipts()
    others[2] = replace(others[2], weight=0.5)
    for (group, index), values in advantages(others, algorithm).items():
        if group != 2:
            assert values.tobytes() == plain[group, index].tobytes()
