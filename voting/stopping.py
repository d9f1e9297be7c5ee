"""When completions that vote and are not trained on need not finish. Pure, and sure: what stops changes neither the
label nor any reward that is trained on.

That holds where equal keys alone make answers the same. An equivalence that compares could join two answers by a third
one that bridges them (0.5 ~ 50% ~ 50): whoever is ahead, and who agrees with them, then depends on answers to come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import Outcome
from voting.asking import Steps
from voting.equivalence import EQUIVALENCES, Equivalence, make_equivalence
from voting.extract import BoundExtractor
from voting.rules import make_rule
from voting.tally import Finished, read_answers

_ENDED = (Outcome.ANSWERED, Outcome.UNPARSED, Outcome.TRUNCATED)
"""Outcomes that no other completion can change."""


def stop_problems(section: VotingSection) -> list[str]:
    """Why a vote by these plug-ins cannot be decided early; empty when it can.

    What the section's own fields say is in `VotingSection.problems`.
    """
    problems: list[str] = []
    try:
        rule, options = make_rule(section.rule)
        equivalence = make_equivalence(section.equivalence)
    except ConfigError as error:
        return list(error.problems)
    if rule.decided(options) is None:
        problems.append(
            f"rollout.stop_decided: voting.rule={_named(section.rule)} cannot tell when the vote is decided, for every "
            "vote counts in what it pays; use a rule that can (majority with weight=one), or stop_decided=false"
        )
    if not _is_by_key(equivalence):
        able = sorted(name for name, entry in EQUIVALENCES.items() if _is_by_key(entry.target))
        problems.append(
            f"rollout.stop_decided: voting.equivalence={section.equivalence.name} compares answers, and one that "
            f"is still to come could join two others into one; use {' or '.join(able)}, or stop_decided=false"
        )
    return problems


def is_decided(
    finished: Sequence[Finished],
    num_completions: int,
    section: VotingSection,
    extract: BoundExtractor,
    equivalence: Equivalence,
) -> Steps[bool]:
    """Whether the label is certain with these completions finished, in any order.

    Completions that were stopped may have answered anything. Where an answer was not read in time, or for an error,
    nothing is certain before all have finished: what else is read in that group may change it.

    Raises:
        ValueError: rule or equivalence cannot tell, see `stop_problems`.
    """
    problems = stop_problems(section)
    if problems:
        raise ValueError("\n".join(problems))
    whole = [completion for completion in finished if completion.finish_reason != "abort"]
    remaining = num_completions - len(whole)
    if remaining >= len(whole) and remaining:
        return False
    answers, outcomes = yield from read_answers(whole, extract, section.truncated)
    if remaining and any(outcome not in _ENDED for outcome in outcomes):
        return False
    keys = (None if answer is None else equivalence.key(answer) for answer in answers)
    rule, options = make_rule(section.rule)
    decided = rule.decided(options)
    assert decided is not None
    return decided(list(Counter(key for key in keys if key is not None).values()), remaining)


def _is_by_key(equivalence: object) -> bool:
    return bool(getattr(equivalence, "is_by_key", False))


def _named(plugin: Plugin) -> str:
    options = ", ".join(f"{key}={value}" for key, value in plugin.options.items())
    return f"{plugin.name} with {options}" if options else plugin.name
