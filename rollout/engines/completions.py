"""What an engine knows of the completions that run in it: which policy version sampled which token above all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from quorum.types import Completion, GroupKey, GroupRequest, RolloutGroup, VersionSpan

_LOG = logging.getLogger(__name__)


class Load(NamedTuple):
    """Tokens from `start` on were sampled with one load of the weights."""

    stamp: str
    """Names the load within one engine. A version may be loaded twice, after a learner's restart with other bytes."""
    version: int
    start: int


@dataclass(slots=True)
class RunningCompletion:
    """One completion inside an engine."""

    key: GroupKey
    index: int
    loads: list[Load] = field(default_factory=list)
    """In order; the first starts at token 0."""
    is_stopped: bool = False
    """Whether it was asked to end where it is."""
    is_abandoned: bool = False
    """Whether its group was."""

    def go_on(self, stamp: str, version: int, num_tokens: int) -> None:
        """Note that the weights changed after `num_tokens` tokens; a load that sampled none is forgotten."""
        while self.loads and self.loads[-1].start >= num_tokens:
            self.loads.pop()
        self.loads.append(Load(stamp, version, num_tokens))

    def started(self, num_tokens: int) -> list[Load]:
        """The loads that sampled something of a completion of `num_tokens` tokens, the first one in any case."""
        return [load for load in self.loads if load.start == 0 or load.start < num_tokens]


def version_spans(loads: Sequence[Load]) -> tuple[VersionSpan, ...]:
    """Spans of one version each.

    Example:
        >>> version_spans([Load("0", 4, 0), Load("1", 5, 9), Load("2", 5, 12)])
        (VersionSpan(version=4, start=0), VersionSpan(version=5, start=9))
    """
    spans: list[VersionSpan] = []
    for load in loads:
        if not spans or spans[-1].version != load.version:
            spans.append(VersionSpan(load.version, load.start))
    return tuple(spans)


def settled_loads(
    running: RunningCompletion, num_tokens: int, reported: Sequence[tuple[str, int]], versions: Mapping[str, int]
) -> list[Load]:
    """Which weights sampled which tokens: what was counted at each pause, checked against the engine's own account.

    Args:
        running: the completion, with what was counted.
        num_tokens: its length.
        reported: (stamp, first token) as the engine says; empty where it says nothing.
        versions: stamp -> policy version of every load so far.

    Returns:
        The engine's account where there is one and it names loads that are known, else ours. A difference is logged.
    """
    counted = running.started(num_tokens)
    # A completion's first version is what its caller said the engine held.
    known = {**versions, counted[0].stamp: counted[0].version}
    if not reported or list(reported) == [(load.stamp, load.start) for load in counted]:
        return counted
    _LOG.warning(
        "completion %d of group %s: its engine says that (load, first token) are %s, counted were %s",
        running.index,
        tuple(running.key),
        list(reported),
        counted,
    )
    if any(stamp not in known for stamp, _ in reported):
        return counted
    return [Load(stamp, known[stamp], start) for stamp, start in reported]


def group_of(request: GroupRequest, completions: Sequence[Completion]) -> RolloutGroup:
    """The group of a request's completions, in index order."""
    return RolloutGroup(
        group_id=request.key.group_id,
        prompt_id=request.prompt.prompt_id,
        branch=request.key.branch,
        role=request.key.role,
        data_source=request.prompt.data_source,
        prompt_token_ids=request.prompt.token_ids,
        prompt_text=request.prompt.text,
        completions=tuple(sorted(completions, key=lambda completion: completion.index)),
        attempts=request.attempt + 1,
    )
