"""The driver's side of the samplers: starts them side by side, hands groups out, and says who stopped.

A dead or stuck sampler ends the run here, by name: `next_finished` raises.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.schema import DeadlineSection
from quorum.errors import EngineTimeout, RolloutError
from quorum.types import GroupRequest, Receipt
from rollout.ray_errors import translate
from rollout.settings import SamplerInfo, SamplerSettings
from rollout.start import start_actors

_POLL_SECONDS = 1.0
"""Longest wait between two looks at progress."""
_PROBES_PER_DEADLINE = 4
_COLLECT_SECONDS = 60.0
"""For a receipt that is ready: a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """A group that came back whole."""

    request: GroupRequest
    receipt: Receipt
    group_ref: Any
    """ObjectRef[RolloutGroup]; the driver owns it and never reads it."""


@dataclass(slots=True)
class SamplerHandle:
    """One started sampler, as the driver sees it."""

    settings: SamplerSettings
    actor: Any
    info: SamplerInfo
    running: dict[Any, GroupRequest] = field(default_factory=dict)
    """Receipt reference -> request."""
    group_refs: dict[Any, Any] = field(default_factory=dict)
    """Receipt reference -> group reference."""
    last_progress: float = 0.0
    tokens_seen: int = -1
    probe_ref: Any = None
    probed_at: float = 0.0
    asked_since: float | None = None
    """When the first probe after the last sign of progress was sent."""

    @property
    def sampler_id(self) -> str:
        return self.settings.sampler_id

    @property
    def pids(self) -> tuple[int, ...]:
        return self.info.pids

    @property
    def num_workers(self) -> int:
        """Receivers of a weight transfer."""
        return self.settings.tensor_parallel_size

    def note_progress(self) -> None:
        self.last_progress, self.asked_since = time.monotonic(), None

    def group_ids(self) -> str:
        return ", ".join(str(request.key.group_id) for request in self.running.values()) or "none"


class SamplerPool:
    """Groups in, finished groups out.

    Consumes requests in the order of `submit`; waits for receipts; is unblocked by any sampler finishing a group;
    produces (request, receipt, reference to the group). Which sampler draws a group never changes its tokens.
    """

    def __init__(
        self, samplers: Sequence[SamplerHandle], deadlines: DeadlineSection, max_groups_per_sampler: int | None = None
    ) -> None:
        self.samplers = list(samplers)
        self._deadlines = deadlines
        self._max_groups = max_groups_per_sampler
        self._waiting: deque[GroupRequest] = deque()
        self._mean_tokens: float | None = None
        """Running mean of completion lengths, for the load estimate alone."""

    @classmethod
    def start(
        cls,
        settings: Sequence[SamplerSettings],
        *,
        deadlines: DeadlineSection,
        actor_options: Sequence[Mapping[str, Any]],
        namespace: str | None = None,
        max_groups_per_sampler: int | None = None,
    ) -> SamplerPool:
        """Start all samplers side by side and wait until each is ready.

        Args:
            settings: one per sampler.
            deadlines: `start_seconds` bounds the start, `rollout_seconds` a wait without a token.
            actor_options: [len(settings)] options of each Ray actor: CPUs, GPUs, placement.
            namespace: actors are named by their sampler id in it; None leaves them anonymous.
            max_groups_per_sampler: more wait in the pool; None hands out everything.

        Raises:
            ResourceError: a sampler could not be placed or its engine did not come up; names it and says why.
                All samplers are killed again.
        """
        started = start_actors(settings, actor_options, namespace, deadlines.start_seconds)
        handles = [
            SamplerHandle(settings=s, actor=actor, info=info)
            for s, (actor, info) in zip(settings, started, strict=True)
        ]
        return cls(handles, deadlines, max_groups_per_sampler)

    @property
    def num_workers(self) -> int:
        """Receivers of a weight transfer, over all samplers."""
        return sum(sampler.num_workers for sampler in self.samplers)

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + sum(len(sampler.running) for sampler in self.samplers)

    def submit(self, request: GroupRequest) -> None:
        """Queue one group; it goes to the sampler with the least expected work as soon as one has room."""
        self._waiting.append(request)
        self._dispatch()

    def next_finished(self, timeout: float) -> list[FinishedGroup]:
        """Groups that finished, in no particular order; empty after `timeout` seconds without any.

        Raises:
            EngineDied: a sampler with work is gone; names it and its groups.
            EngineTimeout: a sampler with work has made no token for deadlines.rollout_seconds.
            StaleSamplerError: a request asked for a version that its sampler does not hold.
            RolloutError: the engine refused a group.
        """
        import ray

        deadline = time.monotonic() + timeout
        while True:
            owners = {ref: sampler for sampler in self.samplers for ref in sampler.running}
            if not owners:
                return []
            left = max(0.0, min(deadline - time.monotonic(), self._poll_seconds()))
            ready, _ = ray.wait(list(owners), num_returns=1, timeout=left)
            if ready:
                ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
                finished = [self._collect(owners[ref], ref) for ref in ready]
                self._dispatch()
                self._check_progress()
                return finished
            self._check_progress()
            if time.monotonic() >= deadline:
                return []

    def describe(self) -> list[str]:
        """What each sampler is doing, a line each: its groups, and when it last gave a sign of progress."""
        now = time.monotonic()
        return [
            f"{sampler.sampler_id} (pid {sampler.info.pid}): groups {sampler.group_ids()}"
            + (f", last progress {now - sampler.last_progress:.0f} s ago" if sampler.running else "")
            for sampler in self.samplers
        ]

    def stop(self, timeout: float) -> None:
        """End all samplers: engines first, then actors, by force what is late. Idempotent."""
        import ray

        samplers, self.samplers = self.samplers, []
        self._waiting.clear()
        stops = [sampler.actor.stop.remote() for sampler in samplers]
        if stops:
            ray.wait(stops, num_returns=len(stops), timeout=timeout)
        for sampler in samplers:
            ray.kill(sampler.actor)

    def _collect(self, sampler: SamplerHandle, ref: Any) -> FinishedGroup:
        import ray

        try:
            receipt: Receipt = ray.get(ref, timeout=_COLLECT_SECONDS)
        except ray.exceptions.RayError as exc:
            raise translate(
                exc, f"sampler {sampler.sampler_id} with groups {sampler.group_ids()}", RolloutError
            ) from exc
        request, group_ref = sampler.running.pop(ref), sampler.group_refs.pop(ref)
        sampler.note_progress()
        mean = receipt.num_tokens / request.sampling.num_completions
        self._mean_tokens = mean if self._mean_tokens is None else 0.9 * self._mean_tokens + 0.1 * mean
        return FinishedGroup(request, receipt, group_ref)

    def _dispatch(self) -> None:
        while self._waiting:
            free = [s for s in self.samplers if self._max_groups is None or len(s.running) < self._max_groups]
            if not free:
                return
            request = self._waiting.popleft()
            sampler = min(free, key=self._load)
            if not sampler.running:
                sampler.note_progress()
            receipt_ref, group_ref = sampler.actor.generate.options(num_returns=2).remote(request)
            sampler.running[receipt_ref] = request
            sampler.group_refs[receipt_ref] = group_ref

    def _load(self, sampler: SamplerHandle) -> float:
        """Expected tokens of a sampler's unfinished groups."""
        return sum(self._expected_tokens(request) for request in sampler.running.values())

    def _expected_tokens(self, request: GroupRequest) -> float:
        most = request.sampling.max_completion_tokens
        mean = most if self._mean_tokens is None else min(self._mean_tokens, most)
        return len(request.prompt.token_ids) + request.sampling.num_completions * mean

    def _poll_seconds(self) -> float:
        return min(_POLL_SECONDS, self._deadlines.rollout_seconds / (2 * _PROBES_PER_DEADLINE))

    def _check_progress(self) -> None:
        """Probe busy samplers now and then; a token since the last probe counts as progress."""
        now, limit = time.monotonic(), self._deadlines.rollout_seconds
        for sampler in self.samplers:
            if not sampler.running:
                continue
            self._read_probe(sampler)
            if (
                sampler.probe_ref is None
                and now - max(sampler.probed_at, sampler.last_progress) > limit / _PROBES_PER_DEADLINE
            ):
                sampler.probe_ref, sampler.probed_at = sampler.actor.probe.remote(), now
                sampler.asked_since = sampler.asked_since or now
            silent = now - sampler.last_progress
            # A driver that was held up itself has to ask before it judges.
            was_asked = sampler.asked_since is not None and now - sampler.asked_since > limit / _PROBES_PER_DEADLINE
            if silent > limit and was_asked:
                is_deaf = sampler.probe_ref is not None and now - sampler.probed_at > limit / _PROBES_PER_DEADLINE
                raise EngineTimeout(
                    f"sampler {sampler.sampler_id} has made no token for {silent:.0f} s (deadlines.rollout_seconds "
                    f"{limit:g}) with groups {sampler.group_ids()} running; its probe "
                    f"{'is unanswered: the actor hangs' if is_deaf else 'answers: the engine hangs'}"
                )

    def _read_probe(self, sampler: SamplerHandle) -> None:
        import ray

        if sampler.probe_ref is None or not ray.wait([sampler.probe_ref], timeout=0)[0]:
            return
        ref, sampler.probe_ref = sampler.probe_ref, None
        try:
            probe = ray.get(ref, timeout=_COLLECT_SECONDS)
        except ray.exceptions.RayError as exc:
            raise translate(
                exc, f"sampler {sampler.sampler_id} with groups {sampler.group_ids()}", RolloutError
            ) from exc
        if probe.tokens_generated != sampler.tokens_seen:
            sampler.tokens_seen = probe.tokens_generated
            sampler.note_progress()
