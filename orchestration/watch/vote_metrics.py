"""What a step's votes look like: agreement, abstentions, and whether one answer wins everywhere. Pure.

Every value is defined in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from quorum.types import Outcome, Resolution, ScoreReceipt, Tally

REVEALED = ("ground_truth", "table")
"""Provenances of labels that a dispenser issued (`data.references`)."""
OUTCOME_METRICS = {
    Outcome.ANSWERED: "vote/answered_share",
    Outcome.UNPARSED: "vote/unparsed_share",
    Outcome.TRUNCATED: "vote/truncated_share",
    Outcome.TIMED_OUT: "vote/timed_out_share",
    Outcome.ERROR: "vote/error_share",
    Outcome.STOPPED: "vote/stopped_share",
}
"""Shares of all completions of a step; they sum to 1."""
JURY_METRICS = {
    "vote/teacher_agreement": ("teacher", "pooled_teacher", "ema_teacher", "momentum"),
    "vote/view_agreement": ("cross_view",),
}
"""By metric the label sources whose juries it compares with (`voting.sources`)."""


def modal_answer(tally: Tally) -> str | None:
    """Most common answer of a group, ties by the smaller string; None when nobody answered."""
    return _most_common(dict(zip(tally.representatives, tally.sizes, strict=True)))


def majority_ratio(sizes: Sequence[int], num_completions: int) -> float:
    """Size of the largest cluster over all completions of a group, abstentions too (arXiv 2504.16084, appendix E).

    Unlike agreement it does not ask whether the cluster was elected. 0 when nobody answered.

    Raises:
        ValueError: a group without completions.

    Example:
        >>> majority_ratio([3, 1], 8)
        0.375
    """
    if num_completions < 1:
        raise ValueError("majority ratio of no completions")
    return max(sizes, default=0) / num_completions


def entropy(counts: Iterable[int]) -> float:
    """Shannon entropy in nats of a distribution given as counts.

    Returns:
        -sum p ln p over the positive counts; 0 for a single one.

    Raises:
        ValueError: no count is positive.

    Example:
        >>> entropy([4]), round(entropy([1, 1]), 4)
        (0.0, 0.6931)
    """
    positive = [count for count in counts if count > 0]
    total = sum(positive)
    if not total:
        raise ValueError("entropy of nothing")
    return math.fsum(count / total * math.log(total / count) for count in positive)


def vote_metrics(
    tallies: Sequence[Tally],
    resolutions: Sequence[Resolution],
    receipts: Sequence[ScoreReceipt],
    *,
    prompt_ids: Sequence[str] | None = None,
    label_flips: Sequence[bool | None] = (),
) -> dict[str, float]:
    """Metrics of one step's votes.

    Args:
        tallies: [P] of all groups of the step, dropped ones too.
        resolutions: [P] in the same order.
        receipts: of the groups that stay in the batch.
        prompt_ids: [P] whose groups they are: a prompt that is repeated in the step then counts once among the answers
            over prompts. None takes every group as a prompt of its own.
        label_flips: whether each prompt's label changed, from `LabelHistory.visit_groups`; None where that cannot be
            told.

    Returns:
        vote/* metrics by name. Not there: vote/reward_mean, vote/weight_mean and vote/penalised_share when no group was
        rewarded; the answer entropies and vote/modal_answer_share when no group answered; vote/label_flip_share when no
        label can be compared. Empty for no groups.
    """
    if not tallies:
        return {}
    outcomes = Counter(outcome for tally in tallies for outcome in tally.outcomes)
    num_completions = sum(outcomes.values())
    num_groups = len(tallies)
    values = {
        "vote/agreement_mean": sum(r.agreement for r in resolutions) / num_groups,
        "vote/margin_mean": sum(r.margin for r in resolutions) / num_groups,
        "vote/majority_ratio_mean": sum(majority_ratio(t.sizes, len(t.cluster)) for t in tallies) / num_groups,
        "vote/abstain_share": (sum(c < 0 for t in tallies for c in t.cluster) - outcomes[Outcome.STOPPED])
        / num_completions,
        **{name: outcomes[outcome] / num_completions for outcome, name in OUTCOME_METRICS.items()},
        "vote/unanimous_share": sum(_is_unanimous(tally) for tally in tallies) / num_groups,
        "vote/no_label_share": sum(r.pseudo_label is None for r in resolutions) / num_groups,
        "vote/kept_share": sum(r.end_state is None for r in resolutions) / num_groups,
        "vote/distinct_answers_per_prompt": sum(_num_answers(t) for t in tallies) / num_groups,
        "vote/num_intransitive_merges": float(sum(t.num_intransitive_merges for t in tallies)),
        "vote/num_undecided_pairs": float(sum(t.num_undecided_pairs for t in tallies)),
        "vote/num_revealed_labels": float(
            sum(
                tally.jury_provenance in REVEALED or resolution.provenance in REVEALED
                for tally, resolution in zip(tallies, resolutions, strict=True)
            )
        ),
    }
    entropies = [entropy(tally.sizes) for tally in tallies if any(tally.sizes)]
    if entropies:
        values["vote/answer_entropy_mean"] = sum(entropies) / len(entropies)
    compared = [has_flipped for has_flipped in label_flips if has_flipped is not None]
    if compared:
        values["vote/label_flip_share"] = sum(compared) / len(compared)
    rewarded = sum(len(receipt.completion_tokens) for receipt in receipts) - sum(
        tally.num_stopped for tally, resolution in zip(tallies, resolutions, strict=True) if not resolution.end_state
    )
    if rewarded:
        values["vote/reward_mean"] = sum(receipt.reward_sum for receipt in receipts) / rewarded
        values["vote/unjudged_share"] = sum(receipt.num_unjudged for receipt in receipts) / rewarded
    if receipts:
        values["vote/weight_mean"] = sum(receipt.weight for receipt in receipts) / len(receipts)
        values["vote/penalised_share"] = sum(receipt.penalty > 0 for receipt in receipts) / len(receipts)
    values |= _with_jurors(tallies)
    modal = modal_answers(tallies, range(len(tallies)) if prompt_ids is None else prompt_ids)
    values["vote/distinct_answers"] = float(len(modal))
    if modal:
        values["vote/modal_answer_share"] = max(modal.values()) / sum(modal.values())
        values["vote/modal_answer_entropy"] = entropy(modal.values())
    return values


def _with_jurors(tallies: Sequence[Tally]) -> dict[str, float]:
    """Where a teacher or the prompt's other view answered too: how often its majority is the policy's own."""
    values = {}
    for name, provenances in JURY_METRICS.items():
        judged = [t for t in tallies if t.jury_provenance in provenances and max(t.jury, default=-1) >= 0]
        if judged:
            values[name] = sum(_agrees_with_jury(tally) for tally in judged) / len(judged)
    return values


def _agrees_with_jury(tally: Tally) -> bool:
    """Whether the largest own cluster is the jury's largest; a tie on either side agrees with nobody."""
    votes = Counter(cluster for cluster in tally.jury if cluster >= 0)
    own = [number for number, size in enumerate(tally.sizes) if size == max(tally.sizes)]
    jury = [number for number, size in votes.items() if size == max(votes.values())]
    return len(own) == 1 and own == jury and tally.sizes[own[0]] > 0


def modal_answers(tallies: Sequence[Tally], prompts: Sequence[object]) -> Counter[str]:
    """How many different prompts have each answer as their most common one; a prompt's groups are put together first.

    Args:
        tallies: [P]
        prompts: [P] whose groups they are.

    Returns:
        Prompts by answer; those that nobody answered are left out.
    """
    votes: dict[object, Counter[str]] = {}
    for prompt, tally in zip(prompts, tallies, strict=True):
        votes.setdefault(prompt, Counter()).update(dict(zip(tally.representatives, tally.sizes, strict=True)))
    return Counter(answer for sizes in votes.values() if (answer := _most_common(sizes)) is not None)


def _is_unanimous(tally: Tally) -> bool:
    """Whether all completions that were not stopped gave one answer."""
    return max(tally.sizes, default=0) == len(tally.cluster) - tally.num_stopped


def _num_answers(tally: Tally) -> int:
    """Different answers of the group itself; what only a jury answered is none of them."""
    return sum(size > 0 for size in tally.sizes)


def _most_common(sizes: Mapping[str, int]) -> str | None:
    top = max(sizes.values(), default=0)
    if not top:
        return None
    return min((answer for answer, size in sizes.items() if size == top), default=None)
