"""Accuracy against agreement: how right prompts are whose completions agree at least so much. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestration.watch.evaluate import PromptScore, avg_at_n

THRESHOLDS = tuple(index / 20 for index in range(21))
"""0, 0.05, ... 1. Quotients, so that 3 of 20 completions reach 0.15 exactly."""


class AgreementPoint(NamedTuple):
    """One prompt of the curve."""

    agreement: float
    """The largest cluster's share of all completions."""
    is_correct: bool
    """Of the majority answer; a tie is wrong."""
    average_accuracy: float
    """Share of right completions."""


def threshold_curve(points: Sequence[AgreementPoint]) -> dict[str, list[float | None]]:
    """The accuracy-against-threshold curve (arXiv 2505.21444v1, figure 9).

    Args:
        points: one per prompt with a reference answer, in any order.

    Returns:
        [21] each: `threshold` t; `kept_share`, the prompts with agreement >= t over all; and over the prompts kept
        `majority_accuracy` (how right labels would be with voting held to t) and `average_accuracy`, None where no
        prompt is kept. Empty for no points.
    """
    if not points:
        return {}
    curve: dict[str, list[float | None]] = {
        "threshold": list(THRESHOLDS),
        "kept_share": [],
        "majority_accuracy": [],
        "average_accuracy": [],
    }
    for threshold in THRESHOLDS:
        kept = [point for point in points if point.agreement >= threshold]
        curve["kept_share"].append(len(kept) / len(points))
        curve["majority_accuracy"].append(sum(p.is_correct for p in kept) / len(kept) if kept else None)
        curve["average_accuracy"].append(sum(p.average_accuracy for p in kept) / len(kept) if kept else None)
    return curve


def threshold_row(scores: Sequence[PromptScore]) -> dict[str, Any]:
    """What `audit/thresholds.jsonl` says of one file, besides its place.

    Args:
        scores: of the file's groups with a reference answer.

    Returns:
        `num_prompts`, the curve over all of them, and `sources`: the same per data source. Empty for no scores.
    """
    if not scores:
        return {}
    named: dict[str, list[AgreementPoint]] = {}
    for score in scores:
        point = AgreementPoint(score.majority_ratio, score.majority_correct, avg_at_n(score.correct))
        named.setdefault(score.data_source, []).append(point)
    everything = [point for points in named.values() for point in points]
    sources: Mapping[str, Any] = {name: _counted(named[name]) for name in sorted(named)}
    return _counted(everything) | {"sources": sources}


def _counted(points: Sequence[AgreementPoint]) -> dict[str, Any]:
    return {"num_prompts": len(points), **threshold_curve(points)}


def pooled(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One curve over the prompts of several, each prompt weighing the same.

    Args:
        curves: with `num_prompts`, as `threshold_row` gives them.

    Returns:
        The same fields without `sources`; empty for no curves.
    """
    if not curves:
        return {}
    num_prompts = sum(curve["num_prompts"] for curve in curves)
    result: dict[str, Any] = {"num_prompts": num_prompts, "threshold": list(THRESHOLDS), "kept_share": []}
    result |= {"majority_accuracy": [], "average_accuracy": []}
    for index in range(len(THRESHOLDS)):
        kept = [curve["kept_share"][index] * curve["num_prompts"] for curve in curves]
        result["kept_share"].append(sum(kept) / num_prompts)
        for name in ("majority_accuracy", "average_accuracy"):
            total = sum(count * curve[name][index] for count, curve in zip(kept, curves, strict=True) if count)
            result[name].append(total / sum(kept) if sum(kept) else None)
    return result
