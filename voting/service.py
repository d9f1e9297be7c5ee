"""Voting as a service: the driver's handle on replicas (Ray actors) that tally and reward.

Groups are tallied as they finish. Each replica works on a bounded number of them, the rest wait in the driver. A
replica that dies is replaced and its groups go to another: votes are pure, so nothing is lost and nothing changes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from configs.schema import DeadlineSection, VotingSection
from quorum.errors import QuorumError, ResourceError, VotingError
from quorum.types import GroupScores, Resolution, RevealedLabel, Tally
from voting.replicas import Replica, Ticket
from voting.tallier import Tallier

MAX_DEATHS = 3
"""A group that so many replicas died with, or so many replicas in a row that never got ready, end the run."""
GROW_SECONDS = 2.0
"""With work waiting for so long a replica is added, up to max_replicas."""
IDLE_SECONDS = 60.0
"""A replica beyond num_replicas without work for so long is retired."""
BUSY_GROUPS = 4
"""Open groups per replica from which on work counts as waiting."""
MAX_REWARDED_TOGETHER = 64
_POLL_SECONDS = 0.2


class VotingService:
    """Tickets in, answers out. Every wait is bounded; errors name the replica and what it owed.

    Consumes groups as they finish; waits for replicas; is unblocked by any answer; produces tallies and rewards.
    `pump` moves everything on and never blocks; `fetch` pumps until its ticket is answered.
    """

    def __init__(
        self,
        section: VotingSection,
        plugins: Sequence[str],
        deadlines: DeadlineSection,
        actor_options: Mapping[str, Any] | None,
        namespace: str | None,
    ) -> None:
        """Bind the settings; `start` makes a service that runs."""
        self._section, self._plugins, self._deadlines = section, tuple(plugins), deadlines
        self._options, self._namespace = dict(actor_options or {}), namespace
        self._replicas: list[Replica] = []
        self._waiting: deque[Ticket] = deque()
        self._numbers = count()
        self._failed_starts = 0
        self._waiting_since: float | None = None
        self._is_stopped = False
        self._last_answer = time.monotonic()
        self.events: list[str] = []
        """What the operator should know: deaths and replacements. Emptied by whoever shows them."""

    @classmethod
    def start(
        cls,
        section: VotingSection,
        *,
        plugins: Sequence[str] = (),
        deadlines: DeadlineSection,
        actor_options: Mapping[str, Any] | None = None,
        namespace: str | None = None,
    ) -> VotingService:
        """Start all replicas at once and wait until each one answers.

        Args:
            section: what and how many.
            plugins: the user's modules.
            deadlines: `start_seconds` bounds this call, `vote_seconds` every later wait.
            actor_options: Ray options of each replica (num_cpus, scheduling_strategy, runtime_env ...).
            namespace: Ray namespace of the actors, named voter-N; None takes the session's.

        Raises:
            ResourceError: replicas that were not placed or did not come up in time, by name. None is left behind.
            ConfigError: the section is wrong.
        """
        Tallier(section, plugins)  # starts nothing: what is wrong is said here, before any actor starts
        service = cls(section, plugins, deadlines, actor_options, namespace)
        try:
            for _ in range(section.service.num_replicas):
                service._add_replica()
            service._wait_ready()
        except BaseException:
            service.stop(timeout=1.0)
            raise
        return service

    def tally(
        self,
        group_ref: Any,
        extractor: str | None = None,
        *,
        provenance: str = "",
        revealed: tuple[RevealedLabel, ...] = (),
        jury_refs: Sequence[Any] = (),
        scores: GroupScores | None = None,
    ) -> Ticket:
        """Ask for the first phase of a group; the ticket's answer is its Tally.

        Args:
            group_ref: reference to the RolloutGroup.
            extractor: of this prompt; None takes the configured one.
            provenance: of the jury; empty without one.
            revealed: labels of the jury.
            jury_refs: references to the jury's groups.
            scores: of the group's completions, where the vote rule asks for them.
        """
        arguments = (group_ref, extractor, provenance, revealed, scores, *jury_refs)
        return self._admit(Ticket("a tally", lambda actor: (actor.tally.remote(*arguments),)))

    def reward(self, decided: Sequence[tuple[Any, Tally, Resolution]]) -> list[Ticket]:
        """Ask for the third phase of a step's groups, spread over the replicas.

        Args:
            decided: (reference to the RolloutGroup, tally, resolution) of each group.

        Returns:
            Tickets for consecutive parts of `decided`: the answer is a tuple of ScoreReceipts, `refs[1:]` are
            references to the ScoredGroups, in order.
        """
        size = max(1, min(MAX_REWARDED_TOGETHER, -(-len(decided) // max(1, self.num_replicas))))
        parts = [decided[start : start + size] for start in range(0, len(decided), size)]
        return [self._admit(_reward_ticket(part)) for part in parts]

    def fetch(self, ticket: Ticket) -> Any:
        """The answer to a ticket.

        Raises:
            VotingError: the replica failed or did not answer within deadlines.vote_seconds; says which and what it
                owed. Also when a group ends one replica after the other.
            ConfigError: the group asked for an extractor that does not exist.
        """
        import ray

        if ticket.is_done and ticket.error is None:
            return ticket.value
        limit = self._deadlines.vote_seconds
        asked_at = time.monotonic()
        while True:
            self.pump()
            if ticket.is_done:
                if ticket.error is not None:
                    raise ticket.error
                return ticket.value
            since = max(asked_at, self._last_answer, ticket.sent_at)
            if time.monotonic() - since > limit:
                raise VotingError(f"{self._where(ticket)} within {limit:g} s (deadlines.vote_seconds)")
            refs = list(ticket.refs[:1]) or [ref for replica in self._replicas for ref in replica.tickets]
            pings = [replica.ping for replica in self._replicas if not replica.is_ready]
            if refs or pings:
                ray.wait([*refs, *pings], num_returns=1, timeout=_POLL_SECONDS)

    def pump(self) -> None:
        """Take answers that are there, bury dead replicas, hand out what waits, add or retire replicas."""
        if self._is_stopped:
            raise VotingError("the voting service is stopped; start it again before voting")
        for replica in list(self._replicas):
            self._look_at(replica)
        self._hand_out()
        self._scale()

    @property
    def pids(self) -> list[int]:
        """Every process of the service as it was when its replica started."""
        return [pid for replica in self._replicas for pid in replica.pids]

    @property
    def num_replicas(self) -> int:
        """Replicas that are ready."""
        return sum(replica.is_ready for replica in self._replicas)

    def any_replica(self) -> Any | None:
        """Handle of the ready replica with the least to do, for samplers to ask `Voter.decided`; None without one.

        Whoever holds the handle of a replica that died gets a RayActorError, and may as well take it as a no.
        """
        ready = [replica for replica in self._replicas if replica.is_ready]
        return min(ready, key=lambda replica: len(replica.tickets)).actor if ready else None

    def stop(self, timeout: float | None = None) -> None:
        """End all replicas within `timeout` seconds (None: `deadlines.stop_seconds`); those still busy are killed."""
        import ray

        seconds = self._deadlines.stop_seconds if timeout is None else timeout
        self._is_stopped = True
        closing = [replica.actor.close.remote() for replica in self._replicas if replica.is_ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=seconds)
        for replica in self._replicas:
            replica.kill()
        self._replicas.clear()
        self._waiting.clear()

    # ---- tickets

    def _admit(self, ticket: Ticket) -> Ticket:
        self._waiting.append(ticket)
        self.pump()
        return ticket

    def _hand_out(self) -> None:
        while self._waiting:
            most = self._section.service.max_open_groups
            free = [replica for replica in self._replicas if replica.is_ready and len(replica.tickets) < most]
            if not free:
                return
            min(free, key=lambda replica: len(replica.tickets)).send(self._waiting.popleft())

    def _look_at(self, replica: Replica) -> None:
        import ray

        if not replica.is_ready and not self._has_come_up(replica):
            return
        if not replica.tickets:
            return
        ready, _ = ray.wait(list(replica.tickets), num_returns=len(replica.tickets), timeout=0)
        for ref in ready:
            ticket = replica.tickets.pop(ref)
            try:
                ticket.value = ray.get(ref, timeout=self._deadlines.vote_seconds)
            except ray.exceptions.RayActorError as error:
                replica.tickets[ref] = ticket
                self._bury(replica, error)
                return
            except ray.exceptions.RayError as error:
                ticket.error = _translated(error, f"voting replica {replica.name} failed at {ticket.what}")
            ticket.is_done = True
            self._last_answer = replica.idle_since = time.monotonic()

    def _where(self, ticket: Ticket) -> str:
        for replica in self._replicas:
            if ticket in replica.tickets.values():
                return f"voting replica {replica.name} did not return {ticket.what}"
        return f"no voting replica was free for {ticket.what}"

    # ---- replicas

    def _add_replica(self) -> None:
        name = f"voter-{next(self._numbers)}"
        self._replicas.append(Replica.start(name, self._section, self._plugins, self._namespace, self._options))

    def _has_come_up(self, replica: Replica) -> bool:
        import ray

        if not ray.wait([replica.ping], timeout=0)[0]:
            return False
        try:
            answer = ray.get(replica.ping, timeout=self._deadlines.start_seconds)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= MAX_DEATHS:
                raise _translated(error, f"voting replica {replica.name} failed to start") from error
            self._bury(replica, error)
            return False
        self._failed_starts = 0
        replica.pids = [answer["pid"], *answer["worker_pids"]]
        return True

    def _bury(self, replica: Replica, error: Exception) -> None:
        """A replica died: another takes its place, and its groups wait again, first in the queue."""
        self._replicas.remove(replica)
        replica.kill()
        open_tickets = list(replica.tickets.values())
        for ticket in open_tickets:
            ticket.refs = ()
            ticket.deaths.append(replica.name)
        self._waiting.extendleft(reversed(open_tickets))
        for ticket in [ticket for ticket in open_tickets if len(ticket.deaths) >= MAX_DEATHS]:
            self._waiting.remove(ticket)
            ticket.is_done = True
            ticket.error = VotingError(
                f"voting replicas {', '.join(ticket.deaths)} died one after the other while they owed {ticket.what}: "
                f"{_first_line(error)}"
            )
        self._add_replica()
        self.events.append(
            f"voting replica {replica.name} died ({_first_line(error)}); {self._replicas[-1].name} takes its place, "
            f"{len(open_tickets)} groups are voted on again"
        )

    def _scale(self) -> None:
        now = time.monotonic()
        section = self._section.service
        num_open = len(self._waiting) + sum(len(replica.tickets) for replica in self._replicas)
        is_busy = bool(self._waiting) or num_open > BUSY_GROUPS * len(self._replicas)
        self._waiting_since = (self._waiting_since or now) if is_busy else None
        if len(self._replicas) < (section.max_replicas or 0) and all(replica.is_ready for replica in self._replicas):
            if self._waiting_since is not None and now - self._waiting_since > GROW_SECONDS:
                self._waiting_since = None
                self._add_replica()
                self.events.append(f"voting replica {self._replicas[-1].name} is added: {num_open} groups wait")
            return
        for replica in self._replicas[section.num_replicas :]:
            if replica.is_ready and not replica.tickets and now - replica.idle_since > IDLE_SECONDS:
                self._replicas.remove(replica)
                replica.kill()
                self.events.append(f"voting replica {replica.name} is retired after {IDLE_SECONDS:g} s without work")

    def _wait_ready(self) -> None:
        import ray

        timeout = self._deadlines.start_seconds
        deadline = time.monotonic() + timeout
        pings = {replica.ping: replica for replica in self._replicas}
        ray.wait(list(pings), num_returns=len(pings), timeout=timeout)
        problems = []
        for ping, replica in pings.items():
            try:
                answer = ray.get(ping, timeout=max(0.1, deadline - time.monotonic()))
                replica.pids = [answer["pid"], *answer["worker_pids"]]
            except ray.exceptions.GetTimeoutError:
                problems.append(f"{replica.name} was not placed or not ready within {timeout:g} s")
            except ray.exceptions.RayError as error:
                problems.append(f"{replica.name} failed to start: {_first_line(error)}")
        if problems:
            raise ResourceError(
                f"{len(problems)} of {len(pings)} voting replicas did not start: {'; '.join(problems)}; give the "
                "cluster more CPUs, or lower voting.service.num_replicas or raise deadlines.start_seconds"
            )


def _reward_ticket(part: Sequence[tuple[Any, Tally, Resolution]]) -> Ticket:
    group_refs, tallies, resolutions = zip(*part, strict=True)

    def send(actor: Any) -> tuple[Any, ...]:
        asked = actor.reward.options(num_returns=1 + len(part))
        return tuple(asked.remote(tallies, resolutions, *group_refs))

    return Ticket(f"the rewards of groups {tallies[0].group_id} to {tallies[-1].group_id}", send)


def _translated(error: Exception, what: str) -> Exception:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, QuorumError) else VotingError(f"{what}: {_first_line(cause or error)}")


def _first_line(error: BaseException | None) -> str:
    """The line of a Ray error that says what happened: its last one, for a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
