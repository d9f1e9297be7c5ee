"""Voting: k completions become answers, a pseudo-label and rewards. `from voting import vote` works in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import Plugin, VotingSection
    from quorum.registry import Entry, Options
    from voting.equivalence import EQUIVALENCES, pairwise
    from voting.extract import EXTRACTORS
    from voting.groups import VotedGroup, as_groups
    from voting.library import Voting, vote
    from voting.rules import VOTE_RULES, VoteRule
    from voting.sources import LABEL_SOURCES, LabelSource
    from voting.tally import Jury
    from voting.variants import variant

__all__ = [
    "EQUIVALENCES",
    "EXTRACTORS",
    "LABEL_SOURCES",
    "VOTE_RULES",
    "Entry",
    "Jury",
    "LabelSource",
    "Options",
    "Plugin",
    "VoteRule",
    "VotedGroup",
    "Voting",
    "VotingSection",
    "as_groups",
    "pairwise",
    "variant",
    "vote",
]

_HOMES = {
    "EQUIVALENCES": "voting.equivalence",
    "EXTRACTORS": "voting.extract",
    "LABEL_SOURCES": "voting.sources",
    "VOTE_RULES": "voting.rules",
    "Entry": "quorum.registry",
    "Jury": "voting.tally",
    "LabelSource": "voting.sources",
    "Options": "quorum.registry",
    "Plugin": "configs.schema",
    "VoteRule": "voting.rules",
    "VotedGroup": "voting.groups",
    "Voting": "voting.library",
    "VotingSection": "configs.schema",
    "as_groups": "voting.groups",
    "pairwise": "voting.equivalence",
    "variant": "voting.variants",
    "vote": "voting.library",
}


def __getattr__(name: str) -> Any:
    """Load what is exported on first use, so that importing a submodule stays light."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'voting' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
