"""When the learner is started again, with what, and when no more: the decisions, without starting anything."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.attempts import RESTARTABLE, Attempts
from orchestration.budgets import with_learned_budgets
from orchestration.guard_record import GuardRecord, Intervention
from orchestration.guarding import RollbackOrdered
from orchestration.run_dir import RunDir, read_info
from orchestration.signals import StopSignals
from orchestration.watch.display import Display
from quorum.errors import Interrupted, LearnerError, LearnerOutOfMemory, NonFiniteLoss, RankFailure, StorageError

DIED = RankFailure("learner rank 1 (pid 12) died during the update of step 3: killed.")
OUT = LearnerOutOfMemory("learner rank 0 ran out of memory in the update of step 3")


class Stack:
    """Remembers how its learner was restarted; the first `failures` times it does not come up."""

    def __init__(self, failures: int = 0) -> None:
        self.restarts: list[tuple[int, str]] = []
        self._failures = failures

    def restart_learner(self, config: RunConfig, namespace: str, checkpoint: Path | None) -> None:
        self.restarts.append((config.learner.max_tokens_per_micro_batch, namespace))
        if len(self.restarts) <= self._failures:
            raise RankFailure("learner rank 0 died during start")


def make(path: Path, stack: Stack, **learner: Any) -> tuple[Attempts, io.StringIO]:
    sections = {"run": {"dir": str(path)}, "model": {"path": "m"}, "data": {"train": [{"path": "p"}]}}
    config = RunConfig.model_validate({**sections, "learner": {"max_tokens_per_micro_batch": 2048, **learner}})
    said = io.StringIO()
    display = Display(config, path, live=False, stream=said)
    checked = SimpleNamespace(plan=SimpleNamespace(device="cpu"))
    made = Attempts(config, RunDir.create(config), checked, display, StopSignals(), stack, None, None)  # type: ignore[arg-type]
    return made, said


def test_a_dead_rank_begins_an_incarnation_with_names_of_its_own(tmp_path: Path) -> None:
    stack = Stack()
    attempts, said = make(tmp_path / "run", stack)
    first = attempts.run_dir.info
    attempts.restart(DIED)
    info = read_info(tmp_path / "run")
    assert (info.incarnation, info.namespace) == (1, first.namespace), "samplers keep their names"
    assert stack.restarts == [(2048, info.rank_namespace)]
    assert info.rank_namespace != first.rank_namespace
    assert "(pid 12) died during the update of step 3: killed; the learner starts again (1 of" in said.getvalue()


def test_ranks_that_die_while_they_start_count_too(tmp_path: Path) -> None:
    stack = Stack(failures=2)
    attempts, _ = make(tmp_path / "run", stack)
    attempts.restart(DIED)
    assert len(stack.restarts) == 3
    assert len({namespace for _, namespace in stack.restarts}) == 3
    with pytest.raises(RankFailure) as caught:
        attempts.restart(DIED)
    assert caught.value is DIED and "max_restarts=3" in caught.value.__notes__[-1]


def test_a_rollback_begins_a_branch_and_costs_no_restart(tmp_path: Path) -> None:
    stack = Stack()
    attempts, _ = make(tmp_path / "run", stack, max_restarts=0)
    row = {"score": 1.0, "reason": "it collapses", "kind": "alarm", "actions": ("rollback",)}
    GuardRecord(tmp_path / "run").add(Intervention(branch=0, step=4, rollback_to=0, **row))
    attempts.roll_back(RollbackOrdered(0))
    info = read_info(tmp_path / "run")
    assert (info.branch, info.incarnation) == (1, 1) and attempts.num_restarts == 0
    assert stack.restarts == [(2048, info.rank_namespace)]


def test_the_budget_of_restarts_may_be_none(tmp_path: Path) -> None:
    stack = Stack()
    attempts, _ = make(tmp_path / "run", stack, max_restarts=0)
    with pytest.raises(RankFailure, match="pid 12"):
        attempts.restart(RankFailure(str(DIED)))
    assert stack.restarts == [] and read_info(tmp_path / "run").incarnation == 0


def test_out_of_memory_starts_again_with_half_the_budget_once(tmp_path: Path) -> None:
    stack = Stack()
    attempts, said = make(tmp_path / "run", stack)
    attempts.restart(OUT)
    attempts.restart(DIED)
    assert [budget for budget, _ in stack.restarts] == [1024, 1024]
    assert "halved from 2048 to 1024" in said.getvalue()
    with pytest.raises(LearnerOutOfMemory) as caught:
        attempts.restart(LearnerOutOfMemory("again"))
    assert "halved before" in caught.value.__notes__[-1]
    assert len(stack.restarts) == 2


def test_a_resume_knows_the_learned_budget_though_no_restart_was_left(tmp_path: Path) -> None:
    attempts, _ = make(tmp_path / "run", Stack(), max_restarts=0)
    with pytest.raises(LearnerOutOfMemory):
        attempts.restart(LearnerOutOfMemory("out"))
    assert with_learned_budgets(attempts.run_dir.config, tmp_path / "run").learner.max_tokens_per_micro_batch == 1024


def test_a_signal_that_came_meanwhile_ends_the_run_instead(tmp_path: Path) -> None:
    stack = Stack()
    attempts, _ = make(tmp_path / "run", stack)
    attempts.signals.signum = 15
    with pytest.raises(Interrupted):
        attempts.restart(RankFailure("died"))
    assert stack.restarts == []


@pytest.mark.parametrize("kind", [NonFiniteLoss, StorageError, LearnerError])
def test_what_would_happen_again_is_not_tried_again(kind: type[Exception]) -> None:
    assert not issubclass(kind, RESTARTABLE)
