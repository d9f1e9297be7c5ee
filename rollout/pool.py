"""The driver's side of the samplers: groups in, finished groups out, whatever happens to the samplers meanwhile.

A sampler that dies, hangs or leaves gives its groups back; they are drawn again from the same seeds by another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from configs.rollout_sections import RestartSection, RolloutSection
from configs.schema import DeadlineSection
from quorum.errors import RolloutError, StaleSamplerError
from quorum.types import GroupRequest, Receipt
from rollout.backlog import Backlog
from rollout.berths import Berths, ListedBerths
from rollout.handle import Call, SamplerHandle, SamplerState, Work
from rollout.inbox import Inbox
from rollout.ray_errors import first_line, translate
from rollout.roster import POLL_SECONDS, Roster, is_alive
from rollout.settings import NO_VERSION, SamplerSettings

_HERE_SECONDS = 0.1
"""For an answer that has come, or is late."""


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """A group that came back whole, or, without a receipt, one that was given up."""

    request: GroupRequest
    receipt: Receipt | None
    group_ref: Any = None
    """ObjectRef[RolloutGroup]; the driver owns it and never reads it."""


class SamplerPool:
    """Groups in, finished groups out.

    Consumes requests in the order of `submit`; waits for receipts in `pump`; is unblocked by any sampler finishing a
    group, failing or starting; produces (request, receipt, reference to the group), or a group that was given up.
    Which sampler draws a group, and how often it was lost before, never changes its tokens.

    All methods belong to one thread, and none waits for a single sampler.
    """

    def __init__(
        self, berths: Berths, section: RolloutSection, deadlines: DeadlineSection, namespace: str | None = None
    ) -> None:
        """Bind the parts; `start` makes a pool that runs.

        Args:
            berths: where samplers run.
            section: dispatch, restarts and the fewest samplers to go on with.
            deadlines: `start_seconds` bounds a start, `rollout_seconds` a wait without a token.
            namespace: actors are named by their sampler id in it; None leaves them anonymous.
        """
        self._section, self._deadlines = section, deadlines
        self._inbox = Inbox()
        self.roster = Roster(berths, section, deadlines, namespace, self._inbox, self._give_back)
        self._backlog = Backlog(section.dispatch)
        self._owners: dict[int, SamplerHandle] = {}
        """By call number."""
        self._num_calls = 0
        self._finished: list[FinishedGroup] = []
        self._waits_since = time.monotonic()

    @classmethod
    def start(
        cls,
        berths: Berths | Sequence[SamplerSettings],
        *,
        deadlines: DeadlineSection,
        actor_options: Sequence[Mapping[str, Any]] = (),
        num_samplers: int | None = None,
        section: RolloutSection | None = None,
        namespace: str | None = None,
    ) -> SamplerPool:
        """Start all samplers side by side and wait until each is ready.

        Args:
            berths: where samplers run; or the settings of each, then with as many `actor_options`.
            deadlines: see the class.
            actor_options: Ray options of each, where `berths` is a list.
            num_samplers: to start; None: as many as are listed.
            section: see the class; None takes the defaults, without replacements.
            namespace: see the class.

        Raises:
            ResourceError: a sampler could not be placed or its engine did not come up; names it and says why.
                All samplers are killed again.
        """
        if isinstance(berths, Sequence):
            num_samplers = len(berths) if num_samplers is None else num_samplers
            berths = ListedBerths(berths, actor_options)
        assert num_samplers is not None, "berths do not say how many samplers to start"
        pool = cls(berths, section or RolloutSection(restart=RestartSection(max_restarts=0)), deadlines, namespace)
        try:
            for _ in range(num_samplers):
                pool.roster.add()
            pool.roster.await_started()
        except BaseException:
            pool.roster.kill()
            raise
        pool._backlog.offer_all(pool.samplers)
        return pool

    @property
    def samplers(self) -> list[SamplerHandle]:
        """Those that are not dead or retired."""
        return self.roster.samplers

    @property
    def alive(self) -> list[SamplerHandle]:
        """Samplers that have started and are not on their way out."""
        return [sampler for sampler in self.samplers if is_alive(sampler)]

    @property
    def num_ready(self) -> int:
        return len(self.roster.in_state(SamplerState.READY))

    @property
    def num_unfinished(self) -> int:
        return len(self._backlog) + len(self._owners)

    @property
    def num_requeued(self) -> int:
        """Groups handed out again."""
        return self._backlog.num_requeued

    def submit(self, request: GroupRequest) -> None:
        """Queue one group; it goes to the sampler with the least expected work as soon as one has room."""
        self._backlog.add(request)
        self._dispatch()

    def pump(self, seconds: float) -> list[FinishedGroup]:
        """Move everything on, for `seconds` at most or until groups finish. Returns those, in no particular order.

        Raises:
            RolloutError: fewer than rollout.min_samplers are left, and none will come.
        """
        deadline = time.monotonic() + seconds
        self._inbox.take_in(0.0)  # a driver that was away has answers to read before it judges
        while True:
            if self.roster.look_around():
                self._backlog.offer_all(self.samplers)
            self._dispatch()
            if self._finished:
                finished, self._finished = self._finished, []
                return finished
            if self.roster.failure is not None:
                raise self.roster.failure
            left = deadline - time.monotonic()
            self._inbox.take_in(max(0.0, min(left, POLL_SECONDS)))
            if left <= 0 and not self._finished:
                return []

    def resize(self, num_samplers: int) -> None:
        """Grow or shrink to so many samplers; returns at once. Those that leave finish or hand back their groups.

        Raises:
            ResourceError: there can be no further sampler here.
        """
        while self.roster.num_wanted < num_samplers:
            self.roster.add()
        for _ in range(self.roster.num_wanted - num_samplers):
            sampler = self.roster.send_one_away()
            if sampler is not None:
                sampler.reserved_for = None
                self._retire_if_idle(sampler)

    def retire_leaving(self) -> None:
        """Samplers on their way out hand back what they run, before weights that they are not to get any more."""
        for sampler in self.roster.in_state(SamplerState.DRAINING):
            self.roster.retire(sampler)

    def mark_ready(self, sampler: SamplerHandle, version: int) -> None:
        """Weight sync alone: the sampler holds this version, and may work."""
        sampler.version, sampler.failed_transfers = version, 0
        sampler.note_sign()
        if sampler.state is SamplerState.STALE:
            sampler.enter(SamplerState.READY)
        self._backlog.offer(sampler)

    def mark_stale(self, sampler: SamplerHandle) -> None:
        """What the sampler holds is not known, or no longer wanted."""
        sampler.version = NO_VERSION
        if is_alive(sampler):
            sampler.enter(SamplerState.STALE)

    def take_turns(self, whose: Literal["learner", "samplers"]) -> None:
        """Where samplers share their GPUs with the learner: have idle engines give their memory up, or take it back.
        Afterwards a sampler has to get its weights again. Who does not do it in time is lost."""
        import ray

        turns = {s: (s.actor.sleep if whose == "learner" else s.actor.wake).remote() for s in self.alive}
        if turns:
            ray.wait(list(turns.values()), num_returns=len(turns), timeout=self._deadlines.sync_seconds)
        for sampler, ref in turns.items():
            try:
                ray.get(ref, timeout=_HERE_SECONDS)
            except (ray.exceptions.RayError, TimeoutError) as exc:
                self.roster.lose(sampler, f"it did not take turns with the learner: {first_line(exc)}")
            else:
                self.mark_stale(sampler)

    def abandon(self) -> None:
        """Forget every group that waits or runs, and have the samplers end theirs. Does not wait for them: before a
        sampler works again it gets weights, and that comes after."""
        for sampler in self.samplers:
            if sampler.info is not None:
                sampler.actor.abandon.remote()
            self._take_calls(sampler)
        self._backlog.clear()
        self._finished.clear()

    def take_events(self) -> list[str]:
        """What the operator should know since the last call."""
        events, self.roster.events = self.roster.events, []
        return events

    def take_idle_share(self) -> float:
        """Share of the samplers' time without work since the last call, in [0, 1]."""
        now = time.monotonic()
        seconds, self._waits_since = now - self._waits_since, now
        busy = sum(sampler.take_busy_seconds() for sampler in self.samplers)
        total = seconds * max(1, len(self.alive))
        return min(1.0, max(0.0, 1 - busy / total)) if total > 0 else 0.0

    def describe(self) -> list[str]:
        """What each sampler is doing, a line each, and which groups wait for one."""
        waiting = self._backlog.waiting()
        lines = [sampler.describe() for sampler in self.samplers]
        return lines + ([f"waiting for a sampler: groups {', '.join(map(str, waiting))}"] if waiting else [])

    def stop(self, timeout: float) -> None:
        """End all samplers: engines first, then actors, by force what is late. Idempotent."""
        import ray

        stops = [sampler.actor.stop.remote() for sampler in self.samplers if sampler.info is not None]
        if stops:
            ray.wait(stops, num_returns=len(stops), timeout=timeout)
        self._backlog.splits.stop()
        self._backlog.clear()
        self._owners.clear()
        self.roster.kill()

    # ---- groups on their way

    def _dispatch(self) -> None:
        for work, sampler in self._backlog.handed_out(self.samplers):
            self._send(work, sampler)

    def _send(self, work: Work, sampler: SamplerHandle) -> None:
        receipt_ref, group_ref = sampler.actor.generate.options(num_returns=2).remote(work.request)
        self._num_calls += 1
        number = self._num_calls
        sampler.add(number, Call(work, receipt_ref, group_ref))
        self._backlog.offer(sampler)
        self._owners[number] = sampler
        self._inbox.expect(receipt_ref, lambda receipt, error: self._returned(number, receipt, error))

    def _returned(self, number: int, receipt: Receipt | None, error: BaseException | None) -> None:
        sampler = self._owners.get(number)
        if sampler is None:
            return  # it was taken away meanwhile
        if error is not None:
            self._failed(number, sampler, error)
            return
        assert receipt is not None
        call = self._take_call(number, sampler)
        sampler.note_finished(receipt)
        self._backlog.learn(call.work.request, receipt)
        if self._backlog.splits.is_doomed(call.work):
            self._end(call.work)
        elif call.work.request.indices is None:
            self._finished.append(FinishedGroup(call.work.request, receipt, call.group_ref))
        else:
            self._join(call, receipt)
        self._retire_if_idle(sampler)

    def _join(self, call: Call, receipt: Receipt) -> None:
        joined = self._backlog.splits.add(call.work, receipt, call.group_ref)
        if joined is None:
            return
        split, receipt_ref, group_ref = joined

        def then(receipt: Receipt | None, error: BaseException | None) -> None:
            request = self._backlog.splits.close(split)
            if request is None:
                return  # abandoned meanwhile
            if error is None:
                self._finished.append(FinishedGroup(request, receipt, group_ref))
            else:
                self.roster.tell(
                    f"parts of group {request.key.group_id} were lost before they were joined: {first_line(error)}"
                )
                self._backlog.add(request)

        self._inbox.expect(receipt_ref, then)

    def _failed(self, number: int, sampler: SamplerHandle, error: BaseException) -> None:
        """A call ended with an error: of the sampler, of its weights, or of the group."""
        who = f"sampler {sampler.sampler_id} with groups {sampler.group_ids()}"
        found = translate(error, who, RolloutError)
        if isinstance(found, StaleSamplerError):
            self._backlog.put_back(self._take_call(number, sampler).work)
            self.mark_stale(sampler)
            self.roster.tell(f"{found}; it gets the weights again")
        elif type(found) is RolloutError:  # it refused the group, and goes on with the others
            work = self._take_call(number, sampler).work
            work.refusals += 1
            self._requeue(work, str(found))
            self._retire_if_idle(sampler)
        else:
            self.roster.lose(sampler, first_line(found))

    def _take_call(self, number: int, sampler: SamplerHandle) -> Call:
        del self._owners[number]
        call = sampler.remove(number)
        if sampler.reserved_for is call.work:
            sampler.reserved_for = None
        self._backlog.offer(sampler)
        return call

    def _take_calls(self, sampler: SamplerHandle) -> list[Work]:
        """Take away everything that a sampler runs or is reserved for."""
        works = [self._take_call(number, sampler).work for number in list(sampler.calls)]
        sampler.reserved_for = None
        return works

    def _give_back(self, sampler: SamplerHandle, is_lost: bool) -> str:
        running = [call.work for call in sampler.calls.values()]
        was_alone = len(running) == 1 and running[0] is sampler.reserved_for
        works = self._take_calls(sampler)
        for work in works:
            work.losses += is_lost
            work.losses_alone += is_lost and was_alone
            self._requeue(work)
        ids = ", ".join(str(work.request.key.group_id) for work in works)
        return f"groups {ids}" if works else ""

    def _requeue(self, work: Work, refusal: str = "") -> None:
        if self._backlog.splits.is_doomed(work):
            self._end(work)
        elif reason := self._backlog.take_back(work, self.roster.num_lost_lately):
            self.roster.tell(f"group {work.request.key.group_id} is quarantined: {refusal or reason}")
            self._end(work)

    def _end(self, work: Work) -> None:
        """It is given up; the group has ended once nothing of it runs."""
        if (request := self._backlog.give_up(work)) is not None:
            self._finished.append(FinishedGroup(request, None))

    def _retire_if_idle(self, sampler: SamplerHandle) -> None:
        if sampler.state is SamplerState.DRAINING and sampler.is_idle:
            self.roster.retire(sampler)
