"""Every task of reasoning-gym put to the swapped-answer test, in the worker processes that votes run in."""

from __future__ import annotations

import asyncio

import pytest

from quorum.reasoning_gym_tasks import has_pycosat, load_tasks
from tests.unit.voting.swapped_answers import verdict
from voting.answers.reasoning_gym_scorers import FAIR_TASKS, UNFAIR_TASKS
from voting.jobs import JobStatus
from voting.workers import WorkerPool

pytest.importorskip("cellpylib", reason="reasoning-gym is part of the full stack")

_CPU_SECONDS = 20.0
"""For one task; the slowest takes 2 s."""
_MAY_RUN_LATE = {"codeio"}
"""To make a prompt it runs a program, and some of them do not end."""


def test_the_fair_tasks_are_those_whose_scorer_passes_the_swapped_answer_test() -> None:
    tasks = sorted(load_tasks())
    function = f"{verdict.__module__}:{verdict.__name__}"
    pool = WorkerPool(
        num_workers=1, cpu_seconds=_CPU_SECONDS, preload=("voting.answers.reasoning_gym_scorers:warm_up",)
    )
    try:
        verdicts = asyncio.run(pool.run(function, [(task,) for task in tasks]))
    finally:
        pool.stop()
    results = dict(zip(tasks, verdicts, strict=True))
    late = {task for task, result in results.items() if result.status is JobStatus.TIMED_OUT}
    assert late <= _MAY_RUN_LATE
    found = {task: result.value for task, result in results.items() if result.status is JobStatus.DONE}
    not_generated = results.keys() - found.keys() - late
    assert {task for task in not_generated if UNFAIR_TASKS.get(task) != "not_generated"} == set()
    skipped = late | not_generated | ({"zebra_puzzles"} if has_pycosat() else set())
    assert {task for task, word in found.items() if word == "fair"} - skipped == FAIR_TASKS - skipped
    expected = {task: reason for task, reason in UNFAIR_TASKS.items() if task not in skipped}
    assert {task: word for task, word in found.items() if word != "fair" and task not in skipped} == expected
