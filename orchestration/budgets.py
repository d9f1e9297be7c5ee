"""Budgets that a run learned by failing: remembered in its directory, so that no later attempt or resume fails again.

learned_budgets.json   {"configured": 16384, "max_tokens_per_micro_batch": 8192}
"""

from __future__ import annotations

import json
from pathlib import Path

from configs.schema import RunConfig
from learner.batch import MAX_CPU_TOKENS
from orchestration.run_dir import write_atomic
from quorum.errors import DataError, LearnerOutOfMemory

FILE_NAME = "learned_budgets.json"


def with_learned_budgets(config: RunConfig, run_path: Path) -> RunConfig:
    """The configuration with the micro-batch budget that the run learned, unless the configured one was changed since.

    Raises:
        DataError: the file is not readable.
    """
    learned = _read(run_path).get(config.learner.max_tokens_per_micro_batch)
    if learned is None:
        return config
    learner = config.learner.model_copy(update={"max_tokens_per_micro_batch": learned})
    return config.model_copy(update={"learner": learner})


def budget_note(config: RunConfig, run_path: Path) -> list[str]:
    """A sentence about the learned budget, if there is one in force."""
    held = config.learner.max_tokens_per_micro_batch
    learned = with_learned_budgets(config, run_path).learner.max_tokens_per_micro_batch
    if learned == held:
        return []
    return [f"learner.max_tokens_per_micro_batch is {learned}, not {held}: with {held} the run ran out of memory"]


def learn_from_out_of_memory(run_path: Path, config: RunConfig, device: str, error: LearnerOutOfMemory) -> str:
    """Halve the micro-batch budget for this run, once; returns the sentence that says so.

    Args:
        run_path: of the run.
        config: with the budget that did not suffice.
        device: "cpu" or "cuda": on a CPU less than the configured budget may be in force.
        error: raised again, with advice, when the budget was halved before.

    Raises:
        LearnerOutOfMemory: `error`.
        StorageError: the file cannot be written.
    """
    budget = config.learner.max_tokens_per_micro_batch
    if budget in _read(run_path).values() or budget < 2:
        error.add_note(
            f"the micro-batch budget was halved before, to {budget}: lower learner.max_tokens_per_micro_batch or "
            "rollout.max_completion_tokens, set learner.gradient_checkpointing=true, use learner.zero_stage=3 with "
            "learner.offload, or give the learner more ranks"
        )
        raise error
    in_force = min(budget, MAX_CPU_TOKENS) if device == "cpu" else budget
    learned = {"configured": budget, "max_tokens_per_micro_batch": in_force // 2}
    write_atomic(run_path / FILE_NAME, json.dumps(learned) + "\n")
    return (
        f"out of memory: learner.max_tokens_per_micro_batch is halved from {in_force} to {in_force // 2} for the rest "
        f"of this run ({FILE_NAME}); bit equality with a run that has {budget} ends here"
    )


def _read(run_path: Path) -> dict[int, int]:
    """Learned micro-batch budget by the configured one; empty when nothing was learned."""
    path = run_path / FILE_NAME
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return {int(fields["configured"]): int(fields["max_tokens_per_micro_batch"])}
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise DataError(f"{path} is not readable ({exc}); remove it to start from the configured budget again") from exc
