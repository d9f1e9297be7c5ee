"""The samplers of a pool: started, replaced when they are lost, added and sent away while the run goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from configs.rollout_sections import RolloutSection
from configs.schema import DeadlineSection
from quorum.errors import QuorumError, ResourceError, RolloutError
from rollout.berths import Berths
from rollout.endings import end
from rollout.handle import ALIVE, SamplerHandle, SamplerState
from rollout.health import Health
from rollout.inbox import Inbox
from rollout.ray_errors import is_death
from rollout.restarts import HOUR_SECONDS, Restarts
from rollout.settings import NO_VERSION, SamplerInfo
from rollout.start import Start, begin_start, failed_start, late_start

POLL_SECONDS = 0.25
"""Longest wait between two looks at health, starts and restarts."""
KEPT_EVENTS = 20
_LEAVING_ORDER = (SamplerState.STARTING, SamplerState.STALE, SamplerState.SUSPECT, SamplerState.READY)
"""Who is sent away first."""


class Roster:
    """Which samplers there are, and which there are to be.

    Consumes deaths, hangs and orders to grow or shrink; waits for nothing; is unblocked by answers in the inbox;
    produces samplers that are STALE (or READY, where weights never change).
    """

    def __init__(
        self,
        berths: Berths,
        section: RolloutSection,
        deadlines: DeadlineSection,
        namespace: str | None,
        inbox: Inbox,
        give_back: Callable[[SamplerHandle, bool], str],
    ) -> None:
        """Bind the parts.

        Args:
            berths: where samplers run.
            section: restarts, and the fewest samplers to go on with.
            deadlines: of starts, probes and drains.
            namespace: of named actors; None leaves them anonymous.
            inbox: of the pool.
            give_back: takes everything away from a sampler that was lost (True) or leaves (False); returns what it was,
                in words.
        """
        self._berths, self._section, self._deadlines, self._namespace = berths, section, deadlines, namespace
        self._inbox, self._give_back = inbox, give_back
        self.samplers: list[SamplerHandle] = []
        """Those that are not dead or retired."""
        self.events: list[str] = []
        """What the operator should know; emptied by whoever shows it."""
        self.history: deque[str] = deque(maxlen=KEPT_EVENTS)
        """The last of them, shown or not."""
        self.failure: QuorumError | None = None
        """Why the pool cannot go on."""
        self.num_lost = 0
        self._lost_at: deque[float] = deque()
        self._starts: dict[SamplerHandle, Start] = {}
        self._restarts = Restarts(section.restart)
        self._due: dict[int, float] = {}
        """Slot -> when its next sampler starts."""
        self._ending: dict[SamplerHandle, float] = {}
        """Retired samplers whose engines end, and when they are killed if they have not."""
        self._next_slot = 0
        self._lives: dict[int, int] = {}
        """Slot -> samplers it has had."""
        self._health = Health(deadlines, inbox)
        self._looked_at = 0.0
        self._is_up = False
        """Whether the first samplers have started: until then one that fails ends it all."""

    @property
    def num_wanted(self) -> int:
        """Samplers there are to be: alive, starting, or about to be replaced."""
        return len(self.samplers) - len(self.in_state(SamplerState.DRAINING)) + len(self._due)

    @property
    def num_lost_lately(self) -> int:
        """Samplers lost within the hour."""
        while self._lost_at and time.monotonic() - self._lost_at[0] > HOUR_SECONDS:
            self._lost_at.popleft()
        return len(self._lost_at)

    def in_state(self, *states: SamplerState) -> list[SamplerHandle]:
        return [sampler for sampler in self.samplers if sampler.state in states]

    def add(self) -> None:
        """Start one sampler more. Raises ResourceError where there can be none."""
        self._start(self._next_slot)
        self._next_slot += 1

    def await_started(self) -> None:
        """Wait for the first samplers. Raises ResourceError of the first that fails, or of all that are late."""
        deadline = time.monotonic() + self._deadlines.start_seconds
        while self._starts:
            self._inbox.take_in(max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
            if self.failure is not None:
                raise ResourceError(str(self.failure))
            if time.monotonic() >= deadline and self._starts:
                raise ResourceError("; ".join(str(self._late(sampler)) for sampler in self._starts))
        self._is_up = True

    def look_around(self) -> bool:
        """Health, late starts, drains and replacements that are due. False: it looked less than POLL_SECONDS ago."""
        now = time.monotonic()
        if now - self._looked_at < POLL_SECONDS:
            return False
        self._looked_at = now
        for sampler in [s for s in self._starts if now - s.since > self._deadlines.start_seconds]:
            self._start_failed(sampler, self._late(sampler))
        for slot in [slot for slot, when in self._due.items() if when <= now]:
            del self._due[slot]
            self._start(slot)
        for sampler in self.in_state(SamplerState.DRAINING):
            if now - sampler.since > self._deadlines.stop_seconds:
                self.retire(sampler)
        for sampler in [sampler for sampler, when in self._ending.items() if when <= now]:
            self._end(sampler)
        for sampler, reason in self._health.look(self.samplers):
            self.lose(sampler, reason)
        for sampler, ratio in self._health.stragglers(self.samplers):
            self.tell(
                f"sampler {sampler.sampler_id} is slow: {ratio:.1f} times the median's seconds per token; it gets less "
                "of the work"
            )
        return True

    def tell(self, event: str) -> None:
        """Have the operator told."""
        self.events.append(event)
        self.history.append(event)

    def excuse(self) -> None:
        """Engines were held up by something that has its own deadline: no silence so far counts."""
        self._health.excuse(self.samplers)

    def lose(self, sampler: SamplerHandle, reason: str) -> None:
        """Give a sampler up: it is killed, its groups wait again, and another takes its place."""
        if sampler.state in (SamplerState.DEAD, SamplerState.RETIRED):
            return
        was_leaving, did_work = sampler.state is SamplerState.DRAINING, sampler.num_finished > 0
        sampler.enter(SamplerState.DEAD)
        self._starts.pop(sampler, None)
        self.samplers.remove(sampler)
        end(sampler.actor, sampler.info)
        self._count_loss()
        told = f"sampler {sampler.sampler_id} is lost: {reason.rstrip('.')}"
        if groups := self._give_back(sampler, True):
            told += f"; {groups} wait again"
        if was_leaving:
            self._berths.release(sampler.slot)
        else:
            told += f"; {self._plan_next(sampler.slot, did_work)}"
        self.tell(told)
        self._check_strength(reason)

    def send_one_away(self) -> SamplerHandle | None:
        """The sampler to let go next, DRAINING now; None where a replacement was cancelled instead."""
        if self._due:
            slot = max(self._due)
            del self._due[slot]
            self._berths.release(slot)
            return None
        sampler = min(self.in_state(*_LEAVING_ORDER), key=lambda s: (_LEAVING_ORDER.index(s.state), s.load, -s.slot))
        self._starts.pop(sampler, None)
        sampler.enter(SamplerState.DRAINING)
        return sampler

    def retire(self, sampler: SamplerHandle) -> None:
        """A sampler leaves; what it still runs waits again."""
        self._give_back(sampler, False)
        sampler.enter(SamplerState.RETIRED)
        self.samplers.remove(sampler)
        self.tell(f"sampler {sampler.sampler_id} has left")
        self._ending[sampler] = time.monotonic() + self._deadlines.stop_seconds
        if sampler.info is None:
            self._end(sampler)
        else:
            self._inbox.expect(sampler.actor.stop.remote(), lambda _, error: self._end(sampler))

    def _end(self, sampler: SamplerHandle) -> None:
        """A sampler that left has ended, or is late: only now its place goes, and whatever is there with it."""
        if self._ending.pop(sampler, None) is not None:
            end(sampler.actor, sampler.info)
            self._berths.release(sampler.slot)

    def kill(self) -> None:
        """End all samplers at once."""
        for sampler in [*self.samplers, *self._ending]:
            end(sampler.actor, sampler.info)
        self.samplers.clear()
        self._ending.clear()
        self._due.clear()
        self._starts.clear()

    def _count_loss(self) -> None:
        self.num_lost += 1
        self._lost_at.append(time.monotonic())

    def _start(self, slot: int) -> None:
        options, life = self._berths.options(slot), self._lives.get(slot, 0)
        settings = self._berths.settings(slot)
        if life:
            settings = replace(settings, sampler_id=f"{settings.sampler_id}.{life}")
        start = begin_start(settings, options, self._namespace)
        self._lives[slot] = life + 1
        sampler = SamplerHandle(slot, settings, start.actor)
        self.samplers.append(sampler)
        self._starts[sampler] = start
        self._inbox.expect(start.info_ref, lambda info, error: self._started(sampler, info, error))

    def _started(self, sampler: SamplerHandle, info: SamplerInfo | None, error: BaseException | None) -> None:
        if self._starts.get(sampler) is None:
            return  # given up meanwhile
        if error is not None:
            self._start_failed(sampler, failed_start(error, sampler.sampler_id), was_killed=is_death(error))
            return
        del self._starts[sampler]
        sampler.info, sampler.version = info, sampler.settings.initial_version
        sampler.enter(SamplerState.STALE if sampler.version == NO_VERSION else SamplerState.READY)
        sampler.note_sign()
        self._restarts.note_started(sampler.slot)

    def _start_failed(self, sampler: SamplerHandle, error: ResourceError, *, was_killed: bool = False) -> None:
        del self._starts[sampler]
        sampler.enter(SamplerState.DEAD)
        self.samplers.remove(sampler)
        end(sampler.actor, sampler.info)
        if not self._is_up:
            self.failure = error
            return
        if was_killed:
            self._count_loss()  # says nothing against the slot: whoever killed it may be gone
        else:
            self._restarts.note_start_failed(sampler.slot)
        self.tell(f"{error}; {self._plan_next(sampler.slot, did_work=False)}")
        self._check_strength(str(error))

    def _late(self, sampler: SamplerHandle) -> ResourceError:
        seconds = self._deadlines.start_seconds
        return late_start(self._starts[sampler], sampler.settings, sampler.slot, self._berths, seconds)

    def _plan_next(self, slot: int, did_work: bool) -> str:
        """Plan a replacement; returns what is going to happen."""
        now = time.monotonic()
        when = self._restarts.due(slot, now, did_work=did_work)
        if when is None:
            self._berths.release(slot)
            return f"it is not replaced: {self._restarts.why_none(slot)}"
        self._due[slot] = when
        return "another takes its place" + (f" in {when - now:.0f} s" if when - now >= 1 else "")

    def _check_strength(self, reason: str) -> None:
        if self.num_wanted < self._section.min_samplers:
            self.failure = RolloutError(
                f"{self.num_wanted} samplers are left, rollout.min_samplers is {self._section.min_samplers}, and none "
                f"will come: {reason}"
            )


def is_alive(sampler: SamplerHandle) -> bool:
    """Whether it has started and is not on its way out."""
    return sampler.state in ALIVE
