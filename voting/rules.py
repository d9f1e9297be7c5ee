"""Second phase of a vote: who is elected. A rule is two pure functions, one to elect and one to pay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from configs.schema import Plugin, Share, VotingSection
from quorum.registry import Entry, Options, Registry
from quorum.types import EndState, Float32Array, Resolution, Tally
from voting.plugins import choose

NOBODY = -1


class MajorityOptions(Options):
    """Options of the majority rule."""

    denominator: Literal["all", "parsed"] = "all"
    """What agreement is a share of: all completions, or only those that voted."""
    tie: Literal["nobody", "first", "seeded"] = "nobody"
    """Who wins when the largest clusters are of one size. first depends on the order of completions."""
    tie_seed: int = 0
    """Seed of a seeded tie-break; with the group id and the answers it decides, never the order."""
    min_agreement: Share = 0.0
    """Agreement a winner must reach; below it the group is dropped."""
    drop_no_signal: bool = False
    """Drop groups whose rewards are all equal: they have no advantage to learn from."""


def elect_majority(tally: Tally, options: MajorityOptions) -> Resolution:
    """Elect the largest cluster of one group.

    An abstention never wins. With denominator "all" it still counts, so agreement falls when the policy stops
    answering. A tie elects nobody unless told otherwise: breaking it by order would pay reward for noise.

    Args:
        tally: k completions, C clusters.
        options: see MajorityOptions.

    Returns:
        The resolution. Nobody is elected when all abstain or the largest clusters tie (NO_LABEL; agreement 0), or
        when the winner is below `min_agreement` (BELOW_THRESHOLD; agreement and margin are the winner's).

    Raises:
        ValueError: the group has no completions.

    Example:
        >>> from quorum.types import Outcome
        >>> answered = (Outcome.ANSWERED,) * 3
        >>> seven = Tally(group_id=5, answers=("7", "7", "3"), outcomes=answered, cluster=(0, 0, 1), sizes=(2, 1),
        ...               representatives=("7", "3"))
        >>> resolution = elect_majority(seven, MajorityOptions())
        >>> resolution.pseudo_label, round(resolution.agreement, 2), round(resolution.margin, 2)
        ('7', 0.67, 0.33)
    """
    k = len(tally.answers)
    if k == 0:
        raise ValueError(f"group {tally.group_id} has no completions: there is nothing to vote on")
    winner = _winner(tally, options)
    if winner == NOBODY:
        return _resolution(tally, NOBODY, 0.0, 0.0, EndState.NO_LABEL)
    denominator = k if options.denominator == "all" else sum(tally.sizes)
    runner_up = max((size for number, size in enumerate(tally.sizes) if number != winner), default=0)
    agreement, margin = tally.sizes[winner] / denominator, (tally.sizes[winner] - runner_up) / denominator
    if agreement < options.min_agreement:
        return _resolution(tally, NOBODY, agreement, margin, EndState.BELOW_THRESHOLD)
    no_signal = options.drop_no_signal and tally.sizes[winner] == k
    return _resolution(tally, winner, agreement, margin, EndState.NO_SIGNAL if no_signal else None)


def pay_members(tally: Tally, resolution: Resolution, options: MajorityOptions) -> Float32Array:
    """[k] 1 for members of the winning cluster, else 0: membership, never a second comparison."""
    if resolution.label_cluster == NOBODY:
        return np.zeros(len(tally.cluster), dtype=np.float32)
    members = [float(number == resolution.label_cluster) for number in tally.cluster]
    return np.asarray(members, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class VoteRule:
    """A way to turn a tally into a label and rewards."""

    elect: Callable[[Tally, Any], Resolution]
    """(tally, options) -> resolution of that group."""
    pay: Callable[[Tally, Resolution, Any], Float32Array]
    """(tally, resolution, options) -> [k] rewards; all 0 when nobody was elected."""


VOTE_RULES: Registry = {
    "majority": Entry(VoteRule(elect_majority, pay_members), MajorityOptions),
}
"""Vote rules by name; each target is a VoteRule, whose functions take the validated options last."""


def make_rule(plugin: Plugin) -> tuple[VoteRule, Options]:
    """The configured vote rule and its validated options.

    Raises:
        ConfigError: unknown name or wrong options.
    """
    return choose(VOTE_RULES, plugin, "voting.rule")


def resolve(tallies: Sequence[Tally], section: VotingSection) -> list[Resolution]:
    """Decide a step's votes, in the order given: group order.

    Args:
        tallies: one per group.
        section: the rule and its options.

    Returns:
        One resolution per tally, in the same order.

    Raises:
        ConfigError: unknown rule or wrong options.
    """
    rule, options = make_rule(section.rule)
    return [rule.elect(tally, options) for tally in tallies]


def _winner(tally: Tally, options: MajorityOptions) -> int:
    best = max(tally.sizes, default=0)
    leaders = [number for number, size in enumerate(tally.sizes) if size == best]
    if len(leaders) == 1 or (leaders and options.tie == "first"):
        return leaders[0]
    if not leaders or options.tie == "nobody":
        return NOBODY
    return min(leaders, key=lambda number: _lot(options.tie_seed, tally.group_id, tally.representatives[number]))


def _lot(seed: int, group_id: int, answer: str) -> bytes:
    text = f"{seed}/{group_id}/{answer}".encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()


def _resolution(tally: Tally, winner: int, agreement: float, margin: float, end: EndState | None) -> Resolution:
    return Resolution(
        group_id=tally.group_id,
        label_cluster=winner,
        pseudo_label=None if winner == NOBODY else tally.representatives[winner],
        provenance="majority",
        agreement=agreement,
        margin=margin,
        end_state=end,
    )
