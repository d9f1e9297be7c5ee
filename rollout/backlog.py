"""Groups that wait for a sampler, and which sampler each gets: the least loaded, or for a suspect one of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from configs.rollout_sections import DispatchSection
from quorum.types import GroupRequest, Receipt
from rollout.handle import SamplerHandle, SamplerState, Work
from rollout.least_loaded import LeastLoaded
from rollout.splitting import Splits
from rollout.suspects import Suspects
from rollout.work_queue import WorkQueue

MAX_REFUSALS = 2
"""Samplers that refused a group before it is given up."""


class Backlog:
    """Consumes new groups and those that samplers did not finish; waits for nothing; is unblocked by room on a sampler;
    produces (group, sampler) pairs."""

    def __init__(self, section: DispatchSection) -> None:
        self._most = section.max_completions_per_sampler
        self._queue = WorkQueue(section.order)
        self._suspects = Suspects()
        self._least_loaded = LeastLoaded()
        self.splits = Splits(enabled=section.split_groups == "tail")
        self.num_requeued = 0
        """Groups that waited again."""

    def __len__(self) -> int:
        """Groups, or parts of groups, that wait for a sampler or to be joined."""
        return len(self._queue) + len(self._suspects) + self.splits.num_joining

    def add(self, request: GroupRequest) -> None:
        """A new group waits."""
        self._queue.add(request)

    def put_back(self, work: Work) -> None:
        """A group waits again, at its old place and as if it had never been handed out."""
        self._queue.put(work)

    def take_back(self, work: Work, num_lost: int) -> str:
        """A group that a sampler did not finish waits again; alone, when it is suspected.

        Args:
            work: of the group.
            num_lost: samplers that the pool has lost lately.

        Returns:
            Why it does not wait again but is to be given up; empty otherwise. Refusals say it better themselves.
        """
        if self._suspects.is_convicted(work, num_lost):
            return f"{work.losses} samplers were lost with it, {work.losses_alone} of them ran it alone"
        if work.refusals >= MAX_REFUSALS:
            return f"{work.refusals} samplers refused it"
        self.num_requeued += 1
        work.request = replace(work.request, attempt=work.request.attempt + 1)
        if not self._suspects.takes(work):
            self._queue.put(work)
        return ""

    def give_up(self, work: Work) -> GroupRequest | None:
        """A group, or a part of one, is given up. Returns the whole group's request once nothing of it runs."""
        others = self._queue.take_parts(work.request.key) if work.request.indices is not None else []
        ended = None
        for one in (*others, work):
            ended = self.splits.end(one)
        return ended

    def learn(self, request: GroupRequest, receipt: Receipt) -> None:
        """Note how long a finished group was."""
        self._queue.learn(request, receipt)

    def offer(self, sampler: SamplerHandle) -> None:
        """What the sampler runs, or may run, has changed."""
        self._least_loaded.offer(sampler)

    def offer_all(self, samplers: Iterable[SamplerHandle]) -> None:
        """Look at all of them anew."""
        self._least_loaded.offer_all(samplers)

    def handed_out(self, samplers: Sequence[SamplerHandle]) -> Iterator[tuple[Work, SamplerHandle]]:
        """Groups that can start now, with their samplers. Each has to be started before the next is asked for."""
        yield from self._suspects.placed(samplers)
        while self._queue:
            work = self._queue.first()
            if self.splits.can_split(work) and (parts := self._parts_for_idle(work, samplers)) > 1:
                for part in self.splits.split(self._queue.pop(), parts):
                    self._queue.put(part)
                work = self._queue.first()
            sampler = self._least_loaded.take(lambda one: self._has_room(one, work))  # noqa: B023 - called at once
            if sampler is None:
                return
            yield self._queue.pop(), sampler

    def waiting(self) -> list[int]:
        """Ids of the groups that wait."""
        return [work.request.key.group_id for work in (*self._suspects, *self._queue.waiting())]

    def clear(self) -> None:
        """Forget everything."""
        self._queue.clear()
        self._suspects.clear()
        self.splits.clear()

    def _parts_for_idle(self, work: Work, samplers: Sequence[SamplerHandle]) -> int:
        """Idle samplers per group that waits."""
        return sum(one.is_idle and self._has_room(one, work) for one in samplers) // len(self._queue)

    def _has_room(self, sampler: SamplerHandle, work: Work) -> bool:
        if sampler.state is not SamplerState.READY or sampler.reserved_for is not None:
            return False
        request = work.request
        is_newer = request.allows_newer and sampler.version > request.required_version
        if sampler.version != request.required_version and not is_newer:
            return False
        return sampler.is_idle or sampler.num_completions + work.num_completions <= self._most
