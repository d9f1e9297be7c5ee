"""One voting replica, and the work it was given, as the driver sees them. Ray is imported where actors are made."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.schema import VotingSection
from quorum.types import (
    FinishReason,
    GroupScores,
    Resolution,
    RevealedLabel,
    RolloutGroup,
    ScoredGroup,
    ScoreReceipt,
    Tally,
)
from voting.rewards import receipt_of
from voting.tallier import Tallier
from voting.tally import Finished, Jury


class Voter:
    """The replica itself: a Ray actor whose calls run side by side on one event loop."""

    def __init__(self, section: VotingSection, plugins: tuple[str, ...] = ()) -> None:
        """Start the replica, with worker processes where the equivalence needs them.

        Raises:
            ConfigError: unknown plug-ins or wrong options.
            VotingError: worker processes did not start.
        """
        self._tallier = Tallier(section, plugins)
        self._tallier.start()

    async def tally(
        self,
        group: RolloutGroup,
        extractor: str | None = None,
        provenance: str = "",
        revealed: tuple[RevealedLabel, ...] = (),
        scores: GroupScores | None = None,
        *jury_groups: RolloutGroup,
    ) -> Tally:
        """First phase for one group; see `Tallier.tally`. `provenance`, `revealed` and `jury_groups` are its jury."""
        jury = Jury(provenance, jury_groups, revealed) if provenance else None
        return await self._tallier.tally(group, extractor, jury, scores)

    async def reward(
        self, tallies: Sequence[Tally], resolutions: Sequence[Resolution], *groups: RolloutGroup
    ) -> tuple[tuple[ScoreReceipt, ...] | ScoredGroup, ...]:
        """Third phase for n groups: (what the driver learns of all of them, what the learner gets of each ...)."""
        scored = await asyncio.gather(
            *(self._tallier.reward(*one) for one in zip(groups, tallies, resolutions, strict=True))
        )
        return tuple(receipt_of(group) for group in scored), *scored

    async def decided(
        self,
        texts: Sequence[tuple[int, str, FinishReason]],
        num_completions: int,
        extractor: str | None = None,
    ) -> bool:
        """Whether completions that only vote may stop: the label is certain whatever the others will answer.

        What a sampler asks while it draws a group; remembers nothing.

        Args:
            texts: (index, text, finish reason) of the group's completions that have finished. While they are not more
                than half of the group the answer is False, so asking can wait until then.
            num_completions: all that the group will have.
            extractor: of this prompt; None takes the configured one.

        Raises:
            ConfigError: no extractor is called so.
        """
        finished = [Finished(text, reason) for _, text, reason in texts]
        return await self._tallier.decided(finished, num_completions, extractor)

    async def ping(self) -> dict[str, Any]:
        """`pid` of the replica and `worker_pids` of its worker processes."""
        return {"pid": os.getpid(), "worker_pids": self._tallier.pids}

    async def close(self) -> None:
        """End the replica's worker processes."""
        self._tallier.stop()


@dataclass(eq=False, slots=True)
class Ticket:
    """One call that the service owes an answer to."""

    what: str
    """"the tally of group 7\""""
    send: Callable[[Any], tuple[Any, ...]]
    """Actor handle -> references: the answer's, then further ones."""
    refs: tuple[Any, ...] = ()
    sent_at: float = 0.0
    value: Any = None
    error: Exception | None = None
    is_done: bool = False
    deaths: list[str] = field(default_factory=list)
    """Replicas that died while they had it."""


@dataclass(eq=False, slots=True)
class Replica:
    """One actor and its open tickets."""

    name: str
    actor: Any
    ping: Any
    started_at: float = field(default_factory=time.monotonic)
    pids: list[int] = field(default_factory=list)
    """Of the actor and its worker processes, as at its start; empty until it is ready."""
    tickets: dict[Any, Ticket] = field(default_factory=dict)
    """By reference of the answer, in the order sent."""
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_ready(self) -> bool:
        return bool(self.pids)

    @classmethod
    def start(
        cls,
        name: str,
        section: VotingSection,
        plugins: tuple[str, ...],
        namespace: str | None,
        options: Mapping[str, Any],
    ) -> Replica:
        """Ask Ray for the actor; it is ready once its ping is answered."""
        import ray

        made = ray.remote(Voter).options(
            name=name,
            namespace=namespace,
            **{"num_cpus": 1, "max_restarts": 0, "max_concurrency": 2 * section.service.max_open_groups, **options},
        )
        actor: Any = made.remote(section, plugins)
        return cls(name, actor, actor.ping.remote())

    def send(self, ticket: Ticket) -> None:
        """Hand it a ticket."""
        ticket.refs, ticket.sent_at = ticket.send(self.actor), time.monotonic()
        self.tickets[ticket.refs[0]] = ticket

    def kill(self) -> None:
        """End the actor; its worker processes end with it."""
        import ray

        ray.kill(self.actor, no_restart=True)
