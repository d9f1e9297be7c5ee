"""What the audit makes of scored groups: label metrics of a step, and prompts that turned right or wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestration.watch.evaluate import PromptScore, avg_at_n
from quorum.types import Role


def label_metrics(scores: Sequence[PromptScore]) -> dict[str, float | None]:
    """audit/* metrics of one training step.

    Args:
        scores: of the step's groups with a reference answer, dropped ones too.

    Returns:
        By name; None where nothing could be measured (no label was elected, no group was rewarded). Empty
        without references.
    """
    if not scores:
        return {}
    labelled = [score.label_correct for score in scores if score.label is not None]
    paid = [
        (reward > 0) == is_correct
        for score in scores
        if score.rewards is not None
        for reward, is_correct in zip(score.rewards, score.correct, strict=True)
    ]
    average = sum(avg_at_n(score.correct) for score in scores) / len(scores)
    majority = sum(score.majority_correct for score in scores) / len(scores)
    return {
        "audit/label_accuracy": sum(labelled) / len(labelled) if labelled else None,
        "audit/reward_accuracy": sum(paid) / len(paid) if paid else None,
        "audit/average_accuracy": average,
        "audit/majority_accuracy": majority,
        "audit/generation_verification_gap": majority - average,
        "audit/num_references": float(len(scores)),
    }


class PromptHistory:
    """Whether each prompt's majority answer was right, time after time; marks what was lost and gained."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Args: rows: what an earlier audit of the run wrote."""
        self._steps: dict[tuple[str, str], dict[int, bool]] = {}
        for row in rows:
            self._steps.setdefault((row["role"], row["prompt_id"]), {})[row["step"]] = row["is_correct"]

    def add(self, place: Mapping[str, int], role: Role, scores: Sequence[PromptScore]) -> list[dict[str, Any]]:
        """Rows of `audit/prompts.jsonl` for one file.

        Args:
            place: step, branch and incarnation of the file.
            role: training groups, or an evaluation's.
            scores: of its groups.

        Returns:
            One row per group; `change` is "lost" (right before, wrong now), "gained", or None.
        """
        step, rows = place["step"], []
        for score in scores:
            steps = self._steps.setdefault((role.value, score.prompt_id), {})
            before = steps.get(max((earlier for earlier in steps if earlier < step), default=-1))
            is_correct = score.majority_correct
            change = None if before in (None, is_correct) else "gained" if is_correct else "lost"
            rows.append(
                {
                    **place,
                    "role": role.value,
                    "group_id": score.group_id,
                    "prompt_id": score.prompt_id,
                    "data_source": score.data_source,
                    "reference": score.reference,
                    "answer": score.majority_answer,
                    "is_correct": is_correct,
                    "average_accuracy": avg_at_n(score.correct),
                    "change": change,
                }
            )
            steps[step] = is_correct
        return rows
