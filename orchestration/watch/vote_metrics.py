"""What a step's votes look like: agreement, abstentions, and whether one answer wins everywhere. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quorum.types import Outcome, Resolution, ScoreReceipt, Tally

MAJORITY = "majority"
"""Provenance of an elected label; any other was revealed."""


def modal_answer(tally: Tally) -> str | None:
    """Most common answer of a group, ties by the smaller string; None when nobody answered."""
    if not tally.sizes:
        return None
    top = max(tally.sizes)
    return min(answer for answer, size in zip(tally.representatives, tally.sizes, strict=True) if size == top)


def vote_metrics(
    tallies: Sequence[Tally], resolutions: Sequence[Resolution], receipts: Sequence[ScoreReceipt]
) -> dict[str, float]:
    """Metrics of one step's votes.

    Args:
        tallies: [P] of all groups of the step, dropped ones too.
        resolutions: [P] in the same order.
        receipts: of the groups that stay in the batch.

    Returns:
        vote/* metrics by name; vote/reward_mean only when a group was rewarded, vote/modal_answer_share only
        when a group answered. Empty for no groups.
    """
    if not tallies:
        return {}
    outcomes = Counter(outcome for tally in tallies for outcome in tally.outcomes)
    num_completions = sum(outcomes.values())
    num_groups = len(tallies)
    values = {
        "vote/agreement_mean": sum(r.agreement for r in resolutions) / num_groups,
        "vote/margin_mean": sum(r.margin for r in resolutions) / num_groups,
        "vote/abstain_share": sum(c < 0 for t in tallies for c in t.cluster) / num_completions,
        "vote/truncated_share": outcomes[Outcome.TRUNCATED] / num_completions,
        "vote/timed_out_share": outcomes[Outcome.TIMED_OUT] / num_completions,
        "vote/error_share": outcomes[Outcome.ERROR] / num_completions,
        "vote/unanimous_share": sum(t.sizes == (len(t.cluster),) for t in tallies) / num_groups,
        "vote/no_label_share": sum(r.pseudo_label is None for r in resolutions) / num_groups,
        "vote/kept_share": sum(r.end_state is None for r in resolutions) / num_groups,
        "vote/distinct_answers_per_prompt": sum(len(t.sizes) for t in tallies) / num_groups,
        "vote/num_intransitive_merges": float(sum(t.num_intransitive_merges for t in tallies)),
        "vote/num_revealed_labels": float(
            sum(r.pseudo_label is not None and r.provenance != MAJORITY for r in resolutions)
        ),
    }
    modal = Counter(answer for tally in tallies if (answer := modal_answer(tally)) is not None)
    values["vote/distinct_answers"] = float(len(modal))
    if modal:
        values["vote/modal_answer_share"] = max(modal.values()) / sum(modal.values())
    rewarded = sum(len(receipt.completion_tokens) for receipt in receipts)
    if rewarded:
        values["vote/reward_mean"] = sum(receipt.reward_sum for receipt in receipts) / rewarded
    return values
