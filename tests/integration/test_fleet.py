"""A run whose samplers differ in size, on the real stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.ledger import read_ledger
from orchestration.watch.metrics import read_metrics
from tests.integration.run_helpers import quorum
from tests.integration.test_run import PROMPTS, arguments, write_data

pytestmark = [pytest.mark.stack, pytest.mark.all, pytest.mark.timeout(400)]

STEPS = 2


def test_samplers_of_one_and_of_two_workers_draw_one_run_together(tmp_path: Path) -> None:
    write_data(tmp_path / "data", num_held_out=20)
    done = quorum(
        *arguments(tmp_path / "run", tmp_path / "data"),
        f"run.num_steps={STEPS}",
        "rollout.fleet=[{num_samplers: 1, tensor_parallel_size: 2}, {num_samplers: 1}]",
        "learner.num_ranks=1",
        "checkpoint.every_steps=0",
    )
    assert done.code == 0, done.output[-3000:]
    assert len(read_ledger(tmp_path / "run")) == STEPS * PROMPTS
    rows = read_metrics(tmp_path / "run").to_pylist()[:STEPS]
    assert [row["rollout/num_samplers"] for row in rows] == [2] * STEPS
    assert all(row["sync/num_checked_tensors"] > 0 for row in rows), "both hold what the learner published"
