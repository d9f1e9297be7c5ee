"""Second phase of a vote: all of a step's votes are decided at once, in group order, in one place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from configs.schema import BatchSection, VotingSection
from quorum.errors import ConfigError
from quorum.types import EndState, Resolution, Tally
from voting.context import NO_CONTEXT, StepContext
from voting.election import MAJORITY, Ballots, count
from voting.prompt_weights import gated, skipped, weighed
from voting.rules import VoteRule, make_rule, with_minority
from voting.sources import LabelSource, electorate_of, make_source
from voting.subset import choose_trained


def resolve(tallies: Sequence[Tally], section: VotingSection, context: StepContext = NO_CONTEXT) -> list[Resolution]:
    """Decide a step's votes.

    Args:
        tallies: [P] one per group, in group order.
        section: source, rule, thresholds, what leaves the batch, and what groups weigh.
        context: the step, and the pasts of the groups' prompts.

    Returns:
        [P] resolutions in the same order.

    Raises:
        ConfigError: unknown rule or source, or wrong options.
        ValueError: there are pasts, and not one for each tally.
    """
    rule, options = make_rule(section.rule)
    source, _ = make_source(section.labels)
    if context.pasts and len(context.pasts) != len(tallies):
        raise ValueError(f"{len(tallies)} tallies came with the pasts of {len(context.pasts)} prompts")
    decided = [
        _resolve_one(tally, section, rule, options, source, context, position) for position, tally in enumerate(tallies)
    ]
    decided = skipped(decided, tallies, section.prompts.flips, context)
    return _keep_fraction(decided, section.batch.keep_fraction)


def ballots_of(tally: Tally, source: LabelSource) -> Ballots:
    """The votes of one group under a source."""
    return count(tally, electorate_of(source, bool(tally.jury)))


def check(section: VotingSection) -> list[str]:
    """What is wrong with a section beyond its fields; empty when nothing is."""
    problems: list[str] = []
    for make in (make_rule, make_source):
        try:
            made: Any = make(section.rule if make is make_rule else section.labels)
        except ConfigError as error:
            problems += error.problems
            continue
        if make is make_rule and made[0].judge is not None:
            problems += _unfit_for_judges(section)
    return problems


def _unfit_for_judges(section: VotingSection) -> list[str]:
    name = section.rule.name
    problems = []
    if section.batch.no_signal == "drop":
        problems.append(
            f"voting.batch.no_signal=drop: rule {name} pays by a comparison that comes after groups are dropped; "
            "use no_signal=keep"
        )
    if section.labels.name != "vote":
        problems.append(f"voting.labels={section.labels.name}: rule {name} knows the group's own vote alone")
    return problems


def _resolve_one(
    tally: Tally,
    section: VotingSection,
    rule: VoteRule,
    options: Any,
    source: LabelSource,
    context: StepContext,
    position: int,
) -> Resolution:
    ballots = ballots_of(tally, source)
    decided = rule.elect(tally, ballots, section.elect, options)
    if tally.jury_provenance and electorate_of(source, bool(tally.jury)) != "own":
        decided = replace(decided, provenance=tally.jury_provenance)
    if decided.end_state is not None:
        return _unlabeled(decided, section.batch)
    is_revealed = source.supply == "revealed" and bool(tally.jury)
    decided = gated(decided, section.gate, context.step, is_revealed=is_revealed)
    decided = weighed(decided, tally, ballots, section, context.past(position))
    if decided.end_state is None and section.batch.no_signal == "drop" and rule.pay is not None:
        rewards = with_minority(rule.pay(tally, decided, ballots, options), tally, decided)
        trained = rewards[choose_trained(tally, section.train)]
        if not decided.penalty and not (len(trained) and (trained != trained[0]).any()):
            return replace(decided, end_state=EndState.NO_SIGNAL)
    return decided


def _unlabeled(decided: Resolution, section: BatchSection) -> Resolution:
    if section.unlabeled == "drop":
        return decided
    return replace(decided, end_state=None, is_paid=False)


def _keep_fraction(decided: Sequence[Resolution], fraction: float) -> list[Resolution]:
    """Drop all but the labelled groups with the highest agreement: int(P * fraction) of P groups stay, at least one.

    Labels from outside the vote go first, as in the official code; equals keep group order.
    """
    if fraction == 1.0:
        return list(decided)
    kept = [i for i, resolution in enumerate(decided) if resolution.end_state is None]
    kept.sort(key=lambda i: (not decided[i].is_paid, decided[i].provenance == MAJORITY, -decided[i].agreement, i))
    dropped = set(kept[max(1, int(len(decided) * fraction)) :])
    return [
        replace(resolution, end_state=EndState.KEEP_FRACTION) if i in dropped else resolution
        for i, resolution in enumerate(decided)
    ]
