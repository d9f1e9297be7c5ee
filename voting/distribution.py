"""Rules that pay by the whole distribution of a group's answers, negative signal included. Pure functions.

RESTRAIN (arXiv 2510.02172): every answer is a pseudo-label with a weight, and a group without a majority worth its name
is pushed away from all it said. SCRL (arXiv 2603.19880): a label for clear majorities alone, and negative labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from configs.schema import ElectionSection, Share
from quorum.registry import Options
from quorum.types import Float32Array, Resolution, Tally
from voting.election import NOBODY, Ballots, elect, elect_shared, resolution


class RestrainOptions(Options):
    """Options of RESTRAIN's rule. The defaults are ours; the paper finds results sensitive to them: tune them."""

    center: Share = 1.0
    """Share of the vote with the greatest weight."""
    sigma: Annotated[float, Field(gt=0)] = 0.5
    """How fast an answer's weight exp(-(share - center)^2 / (2 sigma^2)) falls, in shares; small is majority voting."""
    kappa: Annotated[float, Field(ge=0)] = 3.0
    """Votes that the leading answer needs; below, all rewards are 0 and every advantage is lowered by delta."""
    delta: Annotated[float, Field(ge=0)] = 1.0
    """What is taken off the advantages then, in units of an advantage."""
    standardize: bool = False
    """Divide each answer's weight by the standard deviation of its own rewards: with learner.algorithm=dr_grpo the
    advantages are then exactly the weighted sum of GRPO's over all answers."""


def answer_weights(ballots: Ballots, options: RestrainOptions) -> tuple[float, ...]:
    """[C] weight of each answer as a pseudo-label: g(share) over the sum of all; 0 for an answer without a vote.

    Example:
        >>> one = Ballots(votes=(2.0, 2.0, 0.0), num_all=4.0)
        >>> answer_weights(one, RestrainOptions())
        (0.5, 0.5, 0.0)
    """
    shares = [votes / ballots.num_all if ballots.num_all else 0.0 for votes in ballots.votes]
    # Relative to the greatest exponent, so that a small sigma makes no 0 / 0.
    nearest = min((abs(share - options.center) for share in shares if share > 0), default=0.0)
    peak = nearest**2 / (2.0 * options.sigma**2)
    raw = [
        math.exp(peak - (share - options.center) ** 2 / (2.0 * options.sigma**2)) if share > 0 else 0.0
        for share in shares
    ]
    total = math.fsum(raw)
    return tuple(value / total if total else 0.0 for value in raw)


def elect_restrained(tally: Tally, ballots: Ballots, section: ElectionSection, options: RestrainOptions) -> Resolution:
    """Like the soft rule's election: a tie still pays. Below kappa nobody is elected, and the group is penalised."""
    most = max(ballots.votes, default=0.0)
    if 0 < most < options.kappa:
        kept = resolution(tally, NOBODY, most / ballots.denominator(section), 0.0, None, is_paid=True)
        return replace(kept, penalty=options.delta)
    return elect_shared(tally, ballots, section)


def pay_restrained(tally: Tally, decided: Resolution, ballots: Ballots, options: RestrainOptions) -> Float32Array:
    """[k] the weight of one's own answer; 0 for abstentions, and for all where the group is penalised.

    sum_j w_j A(rewards by label j) = A(w of one's own answer) for every estimator that is linear in the rewards (rloo,
    dr_grpo, reinforce): one pass does what the paper's sum over losses does, at an importance ratio of 1.
    """
    if max(ballots.votes, default=0.0) < options.kappa:
        return np.zeros(len(tally.cluster), dtype=np.float32)
    weights = answer_weights(ballots, options)
    if options.standardize:
        weights = _over_deviation(weights, tally.sizes, len(tally.cluster))
    return np.asarray([weights[number] if number >= 0 else 0.0 for number in tally.cluster], dtype=np.float32)


def _over_deviation(weights: Sequence[float], sizes: Sequence[int], k: int) -> tuple[float, ...]:
    """Over the sample's deviation (k - 1), as GRPO's; 0 for an answer that all or none gave."""
    made = []
    for weight, size in zip(weights, sizes, strict=True):
        variance = size * (k - size) / (k * (k - 1)) if 0 < size < k else 0.0
        made.append(weight / math.sqrt(variance) if variance else 0.0)
    return tuple(made)


class SelectiveOptions(Options):
    """Options of SCRL's rule, with the values of its scripts; there 32 completions vote and 16 are trained on."""

    tau_pos: Share = 0.375
    """Share of the vote that a label needs."""
    tau_margin: Share = 0.125
    """How far it must be ahead of the runner-up, as a share (the official code asks for more than that)."""
    tau_low: Share = 0.125
    """An answer with a smaller share is a negative label if its completions are at least as uncertain as the prompt's
    are on average (mean token entropy). 0 makes none, and saves the learner's pass that measures entropies."""
    mode: Literal["binary", "continuous"] = "binary"
    """binary: 1 for the label, -1 for negative labels, 0 for others. continuous: share - tau_pos, share - tau_low, 0,
    each less entropy_weight * (mean entropy of the answer's completions - the prompt's mean)."""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the continuous mode, per nat."""


def needs_entropies(options: SelectiveOptions) -> bool:
    """Whether anything is decided by entropies."""
    return options.tau_low > 0 or (options.mode == "continuous" and options.entropy_weight > 0)


def excess_entropies(tally: Tally) -> tuple[float, ...]:
    """[C] mean entropy of each answer's own completions less the mean over all of the group, nats; 0 for an answer that
    no own completion gave. Empty where the group was not scored."""
    if not tally.entropies:
        return ()
    mean = math.fsum(tally.entropies) / len(tally.entropies)
    by_cluster: list[list[float]] = [[] for _ in tally.sizes]
    for number, entropy in zip(tally.cluster, tally.entropies, strict=True):
        if number >= 0:
            by_cluster[number].append(entropy)
    return tuple(math.fsum(values) / len(values) - mean if values else 0.0 for values in by_cluster)


def negative_labels(tally: Tally, ballots: Ballots, winner: int, options: SelectiveOptions) -> tuple[int, ...]:
    """Clusters that are negative labels; none where the group was not scored."""
    return tuple(
        number
        for number, excess in enumerate(excess_entropies(tally))
        if number != winner
        and tally.sizes[number]
        and ballots.votes[number] < options.tau_low * ballots.num_all
        and excess >= -_ROUNDING
    )


_ROUNDING = 1e-12
"""Nats: an answer whose completions are all there are has the mean's own entropy."""


def elect_selective(tally: Tally, ballots: Ballots, section: ElectionSection, options: SelectiveOptions) -> Resolution:
    """Elect under SCRL's thresholds, or the section's where they ask for more; negative labels keep a group."""
    strict = section.model_copy(
        update={
            "min_agreement": max(section.min_agreement, options.tau_pos),
            "min_margin": max(section.min_margin, options.tau_margin),
        }
    )
    decided = elect(tally, ballots, strict)
    if decided.end_state is not None and negative_labels(tally, ballots, NOBODY, options):
        return resolution(tally, NOBODY, decided.agreement, decided.margin, None, is_paid=True)
    return decided


def pay_selective(tally: Tally, decided: Resolution, ballots: Ballots, options: SelectiveOptions) -> Float32Array:
    """[k] by one's own answer: the label, a negative label, any other; -1 for a completion without an answer."""
    negative = set(negative_labels(tally, ballots, decided.label_cluster, options))
    excess = excess_entropies(tally) or (0.0,) * len(tally.sizes)
    by_cluster = []
    for number, votes in enumerate(ballots.votes):
        share = votes / ballots.num_all if ballots.num_all else 0.0
        is_label, is_negative = number == decided.label_cluster, number in negative
        if options.mode == "binary":
            by_cluster.append(float(is_label) - float(is_negative))
        else:
            base = share - options.tau_pos if is_label else share - options.tau_low if is_negative else 0.0
            by_cluster.append(base - options.entropy_weight * excess[number])
    return np.asarray([by_cluster[number] if number >= 0 else -1.0 for number in tally.cluster], dtype=np.float32)
