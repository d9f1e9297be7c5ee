"""Second phase of a vote, for one group: who is elected. Pure, and independent of the order of completions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from configs.schema import ElectionSection
from quorum.types import EndState, Outcome, Resolution, Tally

NOBODY = -1
MAJORITY = "majority"
"""Provenance of a label that the group itself elected."""
Electorate = Literal["own", "jury", "pooled"]
"""Who votes: the group's own completions, the jury alone, or both."""


@dataclass(frozen=True, slots=True)
class Ballots:
    """The votes of one group, counted."""

    votes: tuple[float, ...]
    """[C] votes per cluster."""
    num_all: float
    """Votes of everybody, abstentions included."""
    num_stopped: float = 0.0
    """Votes of completions that were stopped when the vote was decided: in every denominator, and for nobody."""
    order: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """Clusters as a jury named them first; empty where the group votes, whose clusters are numbered so."""

    @property
    def num_parsed(self) -> float:
        """Votes of those whose answer could be read."""
        return math.fsum(self.votes)

    def denominator(self, section: ElectionSection) -> float:
        """What a share is a share of."""
        return self.num_all if section.denominator == "all" else self.num_parsed + self.num_stopped


def count(tally: Tally, electorate: Electorate) -> Ballots:
    """Count the votes of one group.

    Own completions vote with their weights, jurors with 1. Sums are exact, so that the order cannot matter.

    Example:
        >>> from quorum.types import Outcome
        >>> seven = Tally(group_id=5, answers=("7", "7", None), outcomes=(Outcome.ANSWERED,) * 3, cluster=(0, 0, -1),
        ...               sizes=(2, 0), representatives=("7", "3"), jury=(1, 1, 1, -1))
        >>> count(seven, "own"), count(seven, "pooled").votes
        (Ballots(votes=(2.0, 0.0), num_all=3.0, num_stopped=0.0), (2.0, 3.0))
    """
    own = electorate != "jury"
    jury = electorate != "own"
    num_clusters = len(tally.sizes)
    if not tally.weights and not tally.jury:
        return Ballots(
            tuple(float(size) if own else 0.0 for size in tally.sizes),
            float(own * len(tally.cluster)),
            float(own * tally.num_stopped),
        )
    weights = tally.weights or (1.0,) * len(tally.cluster)
    voters = [*zip(tally.cluster, weights, strict=True)] if own else []
    voters += [(number, 1.0) for number in tally.jury] if jury else []
    by_cluster: list[list[float]] = [[] for _ in range(num_clusters)]
    for number, weight in voters:
        if number >= 0:
            by_cluster[number].append(weight)
    return Ballots(
        tuple(math.fsum(weights) for weights in by_cluster),
        math.fsum(weight for _, weight in voters),
        math.fsum(w for w, outcome in zip(weights, tally.outcomes, strict=True) if own and outcome is Outcome.STOPPED),
        order=() if own else tuple(dict.fromkeys(number for number in tally.jury if number >= 0)),
    )


def elect(tally: Tally, ballots: Ballots, section: ElectionSection) -> Resolution:
    """Elect the cluster with the most votes.

    An abstention never wins. With denominator "all" it still counts, so agreement falls when the policy stops
    answering. A tie elects nobody unless told otherwise: breaking it by order would pay reward for noise.

    Args:
        tally: k completions, C clusters, with whatever jury.
        ballots: its votes.
        section: ties, denominator, thresholds.

    Returns:
        The resolution. Nobody is elected when all abstain or the leading clusters tie (NO_LABEL; agreement 0), or
        when the winner is below a threshold (BELOW_THRESHOLD; agreement and margin are the winner's).

    Raises:
        ValueError: the group has no completions.
    """
    if not tally.answers:
        raise ValueError(f"group {tally.group_id} has no completions: there is nothing to vote on")
    winner = _winner(tally, ballots, section)
    if winner == NOBODY:
        return resolution(tally, NOBODY, 0.0, 0.0, EndState.NO_LABEL)
    denominator = ballots.denominator(section)
    runner_up = max((votes for number, votes in enumerate(ballots.votes) if number != winner), default=0.0)
    agreement = ballots.votes[winner] / denominator
    margin = max(0.0, ballots.votes[winner] - runner_up - ballots.num_stopped) / denominator
    if agreement < section.min_agreement or margin < section.min_margin:
        return resolution(tally, NOBODY, agreement, margin, EndState.BELOW_THRESHOLD)
    return resolution(tally, winner, agreement, margin, None)


def elect_shared(tally: Tally, ballots: Ballots, section: ElectionSection) -> Resolution:
    """Like `elect`, but a tie is no reason to pay nothing: the group has no label then, and stays in the batch."""
    decided = elect(tally, ballots, section)
    if decided.end_state is not EndState.NO_LABEL or not any(ballots.votes):
        return decided
    share = max(ballots.votes) / ballots.denominator(section)
    is_kept = share >= section.min_agreement and section.min_margin == 0
    end = None if is_kept else EndState.BELOW_THRESHOLD
    return resolution(tally, NOBODY, share, 0.0, end, is_paid=is_kept)


def majority_decided(counts: Sequence[int], remaining: int) -> bool:
    """Whether the winner of a majority vote, every vote weighing 1, is certain however the others will answer.

    Those who have not answered may agree with anybody, with nobody, with each other, or abstain. So the leader must be
    ahead of everybody, and of an answer that nobody gave yet, by more than they are. With ties to nobody that is exact;
    with ties broken by order or by seed a lead of just as many may be enough, and is not trusted.

    Args:
        counts: votes per answer so far, in any order.
        remaining: completions that have not answered.

    Returns:
        True from the moment on from which no answer changes the label; always with nobody remaining.

    Example:
        >>> majority_decided([5, 2], 2), majority_decided([5, 2], 3), majority_decided([2, 2], 0)
        (True, False, True)
    """
    first, second = sorted((*counts, 0, 0), reverse=True)[:2]
    return not remaining or first - second > remaining


def resolution(
    tally: Tally, winner: int, agreement: float, margin: float, end: EndState | None, *, is_paid: bool | None = None
) -> Resolution:
    """A resolution of `tally`; rewards are paid where somebody was elected, unless told otherwise."""
    return Resolution(
        group_id=tally.group_id,
        label_cluster=winner,
        pseudo_label=None if winner == NOBODY else tally.representatives[winner],
        provenance=MAJORITY,
        agreement=agreement,
        margin=margin,
        end_state=end,
        is_paid=winner != NOBODY if is_paid is None else is_paid,
    )


def _winner(tally: Tally, ballots: Ballots, section: ElectionSection) -> int:
    best = max(ballots.votes, default=0.0)
    leaders = [number for number, votes in enumerate(ballots.votes) if votes == best and votes > 0]
    if len(leaders) == 1:
        return leaders[0]
    if leaders and section.tie == "first":
        return min(leaders, key=ballots.order.index) if ballots.order else leaders[0]
    if not leaders or section.tie == "nobody":
        return NOBODY
    return min(leaders, key=lambda number: lot(section.tie_seed, tally.group_id, tally.representatives[number]))


def lot(seed: int, group_id: int, name: str | int) -> bytes:
    """A number drawn by seed, group and name alone: never by order or time."""
    return hashlib.blake2b(f"{seed}/{group_id}/{name}".encode(errors="surrogatepass"), digest_size=8).digest()
