"""Vote rules: how completions' votes are weighed, who is elected, and what agreement pays. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from configs.schema import ElectionSection, Plugin
from quorum.registry import Entry, Options, Registry
from quorum.types import Completion, Float32Array, Resolution, RolloutGroup, Tally
from voting.asking import Steps
from voting.compat import CompatOptions, Judged, elect_official, judge_official, judge_ttrl
from voting.distribution import (
    RestrainOptions,
    SelectiveOptions,
    elect_restrained,
    elect_selective,
    needs_entropies,
    pay_restrained,
    pay_selective,
)
from voting.election import NOBODY, Ballots, elect, elect_shared, lot, majority_decided, resolution
from voting.novelty import NoveltyOptions, pay_sign, refine_by_novelty
from voting.plugins import choose

_MATHEMATICS = ("voting.answers.mathematics:warm_up",)
Weight = Literal["one", "mean_logprob", "inverse_length", "self_certainty", "low_entropy"]
Decided = Callable[[Sequence[int], int], bool]
"""(votes per answer so far, completions that have not answered) -> whether the label is certain."""
SCORED: tuple[Weight, ...] = ("self_certainty", "low_entropy")
"""Weights made of whole token distributions: one more pass of the learner."""


@dataclass(frozen=True, slots=True)
class VoteRule:
    """A way to turn a tally into a label and rewards."""

    pay: Callable[[Tally, Resolution, Ballots, Any], Float32Array] | None
    """(tally, resolution, ballots, options) -> [k] rewards. None where `judge` pays."""
    weigh: Callable[[RolloutGroup, Any], tuple[float, ...]] = lambda group, options: ()
    """(group, options) -> [k] weights >= 0 of the completions' votes; empty: 1 each."""
    elect: Callable[[Tally, Ballots, ElectionSection, Any], Resolution] = lambda tally, ballots, section, options: (
        elect(tally, ballots, section)
    )
    """(tally, ballots, voting.elect, options) -> resolution."""
    judge: Callable[[RolloutGroup, Tally, Resolution, Any], Steps[Judged]] | None = None
    """Pays by a second comparison in worker processes instead; for the compatible rules alone."""
    preload: tuple[str, ...] = ()
    """What `judge` needs in the worker server, as in `Equivalence.preload`."""
    is_control: bool = False
    """A baseline that pays for something else than agreement."""
    refine: Callable[[RolloutGroup, Tally, Resolution, Float32Array, Any], Float32Array] | None = None
    """(group, tally, resolution, rewards as `pay` has them, options) -> [k] rewards, by what the completions say.
    `batch.no_signal` goes by what `pay` pays."""
    least: float = 0.0
    """Least reward that the default options pay; what cannot be read earns it where it is below 0, else 0."""
    needs_scores: Callable[[Any], bool] = lambda options: False
    """(options) -> whether `weigh` reads `group.scores`, or `pay` the tally's entropies and self-certainties."""
    decided: Callable[[Any], Decided | None] = lambda options: None
    """(options) -> what tells when completions that are not trained on need not finish, for nothing they could answer
    would change the label or the reward of any other; None where the rule cannot tell."""


class WeightOptions(Options):
    """Options of rules whose votes can be weighed."""

    weight: Weight = "one"
    """What a completion's vote weighs: one; mean_logprob: its tokens' geometric mean probability; inverse_length: one
    over its tokens; self_certainty: how far its token distributions are from uniform, mean over its tokens in nats
    (arXiv 2502.18581); low_entropy: exp(-mean token entropy). The last two cost one forward pass of the learner."""


def needs_scores(options: WeightOptions) -> bool:
    """Whether the weight is made of whole token distributions."""
    return options.weight in SCORED


def weigh(group: RolloutGroup, options: WeightOptions) -> tuple[float, ...]:
    """[k] weights of the completions' votes; empty where each weighs 1.

    A completion without tokens weighs 0. Groups that nobody trains on are not scored, and vote with 1 each there.
    """
    if options.weight == "one" or (options.weight in SCORED and group.scores is None):
        return ()
    if options.weight in SCORED:
        return tuple(_scored_weight(group, i, options.weight) for i in range(len(group.completions)))
    return tuple(_weight(completion, options.weight) for completion in group.completions)


def _weight(completion: Completion, weight: Weight) -> float:
    num_tokens = len(completion.token_ids)
    if not num_tokens:
        return 0.0
    if weight == "inverse_length":
        return 1.0 / num_tokens
    return math.exp(math.fsum(completion.rollout_logprobs.tolist()) / num_tokens)


def _scored_weight(group: RolloutGroup, index: int, weight: Weight) -> float:
    assert group.scores is not None
    if not len(group.completions[index].token_ids):
        return 0.0
    if weight == "self_certainty":
        return max(0.0, group.scores.self_certainties[index])
    return math.exp(-group.scores.entropies[index])


def with_minority(rewards: Float32Array, tally: Tally, decided: Resolution) -> Float32Array:
    """[k] rewards, mixed with what the resolution grants to minority answers.

    With minority shares b_c of clusters c a completion earns (1 - sum b) * its reward + b of its own cluster: the
    mixture of losses of arXiv 2605.19444 for estimators that are linear in the reward.
    """
    if not decided.minority:
        return rewards
    left = 1.0 - math.fsum(decided.minority)
    granted = [decided.minority[number] if number >= 0 else 0.0 for number in tally.cluster]
    return np.asarray(left * rewards.astype(np.float64) + granted, dtype=np.float32)


def pay_members(tally: Tally, decided: Resolution, ballots: Ballots, options: Options) -> Float32Array:
    """[k] 1 for members of the winning cluster, else 0: membership, never a second comparison."""
    if decided.label_cluster == NOBODY:
        return np.zeros(len(tally.cluster), dtype=np.float32)
    return np.asarray([number == decided.label_cluster for number in tally.cluster], dtype=np.float32)


class SoftOptions(WeightOptions):
    """Options of the soft rule."""

    denominator: Literal["parsed", "all"] = "parsed"
    """What an answer's reward is a share of; the official code takes the completions that could be read."""


def pay_shares(tally: Tally, decided: Resolution, ballots: Ballots, options: SoftOptions) -> Float32Array:
    """[k] each completion's reward is the share of the vote that its own answer has; 0 for abstentions.

    With weights of 1 and k parsed completions the rewards sum to sum over clusters of size^2 / k.
    """
    denominator = ballots.num_parsed if options.denominator == "parsed" else ballots.num_all
    shares = [votes / denominator if denominator else 0.0 for votes in ballots.votes]
    return np.asarray([shares[number] if number >= 0 else 0.0 for number in tally.cluster], dtype=np.float32)


def elect_soft(tally: Tally, ballots: Ballots, section: ElectionSection, options: SoftOptions) -> Resolution:
    """Like `elect`, but a tie is no reason to pay nothing: the group has no label then, and every answer its share."""
    return elect_shared(tally, ballots, section)


class RandomOptions(Options):
    """Options of the random control."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of reward 1."""
    seed: int = 0
    """With group id and completion index decides each reward."""


def pay_random(tally: Tally, decided: Resolution, ballots: Ballots, options: RandomOptions) -> Float32Array:
    """[k] 1 with the given probability, whatever was answered (arXiv 2506.10947)."""
    drawn = [
        int.from_bytes(lot(options.seed, tally.group_id, index), "big") / 2**64 for index in range(len(tally.cluster))
    ]
    return np.asarray([value < options.probability for value in drawn], dtype=np.float32)


def pay_format(tally: Tally, decided: Resolution, ballots: Ballots, options: Options) -> Float32Array:
    """[k] 1 for every completion with an answer."""
    return np.asarray([number >= 0 for number in tally.cluster], dtype=np.float32)


def pay_inverted(tally: Tally, decided: Resolution, ballots: Ballots, options: Options) -> Float32Array:
    """[k] 1 for every answer but the winning one; abstentions and groups without a winner earn nothing."""
    if decided.label_cluster == NOBODY:
        return np.zeros(len(tally.cluster), dtype=np.float32)
    return np.asarray([number >= 0 and number != decided.label_cluster for number in tally.cluster], dtype=np.float32)


def elect_always(tally: Tally, ballots: Ballots, section: ElectionSection, options: Options) -> Resolution:
    """Like `elect`, but the group is paid and kept whoever wins."""
    decided = elect(tally, ballots, section)
    return resolution(tally, decided.label_cluster, decided.agreement, decided.margin, None, is_paid=True)


def _always(options: Options) -> Decided:
    return majority_decided


def _of_equal_votes(options: WeightOptions) -> Decided | None:
    return majority_decided if options.weight == "one" else None


def _of_one_label(options: CompatOptions) -> Decided | None:
    return None if options.soft else majority_decided


VOTE_RULES: Registry = {
    "majority": Entry(VoteRule(pay_members, weigh, needs_scores=needs_scores, decided=_of_equal_votes), WeightOptions),
    "soft": Entry(VoteRule(pay_shares, weigh, elect_soft, needs_scores=needs_scores), SoftOptions),
    "restrain": Entry(VoteRule(pay_restrained, elect=elect_restrained), RestrainOptions),
    "scrl": Entry(
        VoteRule(pay_selective, elect=elect_selective, least=-1.0, needs_scores=needs_entropies), SelectiveOptions
    ),
    "novelty": Entry(VoteRule(pay_sign, refine=refine_by_novelty, least=-1.0), NoveltyOptions),
    "random": Entry(VoteRule(pay_random, elect=elect_always, is_control=True, decided=_always), RandomOptions),
    "format_only": Entry(VoteRule(pay_format, elect=elect_always, is_control=True, decided=_always)),
    "inverted": Entry(VoteRule(pay_inverted, is_control=True, decided=_always)),
    "srt_compat": Entry(
        VoteRule(None, elect=elect_official, judge=judge_official, preload=_MATHEMATICS, decided=_of_one_label),
        CompatOptions,
    ),
    "ttrl_compat": Entry(VoteRule(None, judge=judge_ttrl, preload=_MATHEMATICS, decided=_always)),
}
"""Vote rules by name; each target is a VoteRule, whose functions take the validated options last."""


def make_rule(plugin: Plugin) -> tuple[VoteRule, Any]:
    """The configured vote rule and its validated options.

    Raises:
        ConfigError: unknown name or wrong options.
    """
    return choose(VOTE_RULES, plugin, "voting.rule")
