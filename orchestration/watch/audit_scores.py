"""What the audit makes of scored groups: label metrics of a step, and prompts that turned right or wrong. Pure.

Every metric is defined in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestration.watch.evaluate import PromptScore, avg_at_n
from quorum.types import Role

REWARD_TOLERANCE = 1e-6
"""Rewards are float32: closer than this to their mean, or to one another, they are equal."""
PASS_RATE_BINS = {
    "audit/pass_rate_share_zero": "none right",
    "audit/pass_rate_share_first_quarter": "up to 25%",
    "audit/pass_rate_share_second_quarter": "up to 50%",
    "audit/pass_rate_share_third_quarter": "up to 75%",
    "audit/pass_rate_share_last_quarter": "under 100%",
    "audit/pass_rate_share_one": "all right",
}
"""Metrics of the share of groups per bin of the pass rate, and the bin in words; each begins where another ends."""


def paid_by(rewards: Sequence[float]) -> list[bool]:
    """Which completions of a group the rewards favour: those above the group's mean, as a group baseline has it.

    Where all rewards of a group are equal there is no better or worse; then a completion is favoured when its reward
    is above 0.5. For rewards of 0 and 1 this is the reward itself, whatever the group.

    Args:
        rewards: [k], hard, soft or negative.

    Returns:
        [k]; empty for no rewards.

    Example:
        >>> paid_by([1, 0, 0]), paid_by([0.5, 0.5, 0.25, 0.25]), paid_by([1, 1])
        ([True, False, False], [True, True, False, False], [True, True])
    """
    if not rewards:
        return []
    is_even = max(rewards) - min(rewards) <= REWARD_TOLERANCE
    level = 0.5 if is_even else math.fsum(rewards) / len(rewards) + REWARD_TOLERANCE
    return [reward > level for reward in rewards]


def pass_rate_bin(pass_rate: float) -> str:
    """Name of the metric that a prompt of this pass rate counts in. Raises ValueError outside [0, 1]."""
    if not 0 <= pass_rate <= 1:
        raise ValueError(f"pass rate {pass_rate}: want a share in [0, 1]")
    return list(PASS_RATE_BINS)[5 if pass_rate == 1 else math.ceil(4 * pass_rate)]


def label_metrics(scores: Sequence[PromptScore]) -> dict[str, float | None]:
    """audit/* metrics of one training step.

    Args:
        scores: of the step's groups with a reference answer, dropped ones too.

    Returns:
        By name; None where nothing could be measured (no label was elected, no group was rewarded, no rewarded group
        has a wrong label). Empty without references.
    """
    if not scores:
        return {}
    labelled = [score.label_correct for score in scores if score.label is not None]
    hits, lucky_hits = [], []
    for score in scores:
        paid = [] if score.rewards is None else paid_by(score.rewards)
        found = [] if not paid else [is_paid == ok for is_paid, ok in zip(paid, score.correct, strict=True)]
        hits += found
        if score.label is not None and not score.label_correct:
            lucky_hits += found
    average = sum(avg_at_n(score.correct) for score in scores) / len(scores)
    majority = sum(score.majority_correct for score in scores) / len(scores)
    bins = Counter(pass_rate_bin(avg_at_n(score.correct)) for score in scores)
    return {
        "audit/label_accuracy": _share(labelled),
        "audit/reward_accuracy": _share(hits),
        "audit/lucky_hit_share": _share(lucky_hits),
        "audit/average_accuracy": average,
        "audit/majority_accuracy": majority,
        "audit/generation_verification_gap": majority - average,
        **{name: bins[name] / len(scores) for name in PASS_RATE_BINS},
        "audit/num_references": float(len(scores)),
    }


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


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
                    "majority_ratio": score.majority_ratio,
                    "change": change,
                }
            )
            steps[step] = is_correct
        return rows
