"""Two questions to every sampler: does its process answer, and does its engine get on.

A sampler with work gets on when its tokens grow; one without is alive when its engine process answers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from itertools import count
from typing import Any

from configs.schema import DeadlineSection
from rollout.handle import ALIVE, SamplerHandle, SamplerState
from rollout.inbox import Inbox
from rollout.ray_errors import first_line

KNOWN_GROUPS = 3
"""Finished by a sampler before its speed is judged."""
SLOW_RATIO = 3.0
"""Times the median from which on a sampler is a straggler."""
PROBES_PER_DEADLINE = 4
"""Probes of a busy sampler while deadlines.rollout_seconds pass."""


class Health:
    """Sends probes, reads their answers, and says which sampler is lost.

    Consumes samplers' states; waits for nothing; is unblocked by answers in the inbox; produces (sampler, reason).
    A death is noticed by the next call that fails, for an idle sampler within deadlines.probe_seconds; a hang within
    deadlines.rollout_seconds with work, within twice deadlines.probe_seconds without.
    """

    def __init__(self, deadlines: DeadlineSection, inbox: Inbox) -> None:
        self._limit, self._patience = deadlines.rollout_seconds, deadlines.probe_seconds
        self._inbox = inbox
        self._numbers = count()
        self._lost: dict[SamplerHandle, str] = {}

    def look(self, samplers: Iterable[SamplerHandle]) -> list[tuple[SamplerHandle, str]]:
        """Probe whoever is due; returns the samplers to give up, with reasons."""
        now = time.monotonic()
        for sampler in samplers:
            is_asked = sampler.state in ALIVE or sampler.state is SamplerState.DRAINING
            if is_asked and not sampler.is_in_transfer:
                self._look_at(sampler, now)
        lost, self._lost = self._lost, {}
        return list(lost.items())

    @staticmethod
    def stragglers(samplers: Iterable[SamplerHandle]) -> list[tuple[SamplerHandle, float]]:
        """Samplers newly found to be slow, and how many times as long as the median they take per token."""
        known = [sampler for sampler in samplers if sampler.num_finished >= KNOWN_GROUPS]
        if len(known) < 2:
            return []
        median = statistics.median_low(sampler.seconds_per_token for sampler in known)
        found = []
        for sampler in known:
            is_slow = sampler.seconds_per_token > SLOW_RATIO * median > 0
            if is_slow and not sampler.is_slow:
                found.append((sampler, sampler.seconds_per_token / median))
            sampler.is_slow = is_slow
        return found

    def excuse(self, samplers: Iterable[SamplerHandle]) -> None:
        """Start all clocks anew: engines were held up by something that has its own deadline."""
        for sampler in samplers:
            sampler.probe = sampler.asked_since = None
            sampler.probed_at = sampler.last_sign = time.monotonic()

    def _look_at(self, sampler: SamplerHandle, now: float) -> None:
        is_busy = bool(sampler.calls)
        every = min(self._patience, self._limit / PROBES_PER_DEADLINE) if is_busy else self._patience
        if sampler.probe is None and now - max(sampler.probed_at, sampler.last_sign) > every:
            self._send(sampler, is_busy)
        silent = now - sampler.last_sign
        limit = self._limit if is_busy else 2 * self._patience
        # A driver that was held up itself has to ask, and give time to answer, before it judges.
        was_asked = sampler.asked_since is not None and now - sampler.asked_since > every
        if silent > limit and was_asked:
            is_deaf = sampler.probe is not None and now - sampler.probed_at > every
            self._lost[sampler] = self._reason(sampler, silent, is_busy, is_deaf)
        elif silent > limit / 2 and was_asked and sampler.state is SamplerState.READY:
            sampler.enter(SamplerState.SUSPECT)

    def _reason(self, sampler: SamplerHandle, silent: float, is_busy: bool, is_deaf: bool) -> str:
        if not is_busy:
            return f"it has not answered for {silent:.0f} s (deadlines.probe_seconds {self._patience:g})"
        return (
            f"it has made no token for {silent:.0f} s (deadlines.rollout_seconds {self._limit:g}) with groups "
            f"{sampler.group_ids()} running; its probe "
            f"{'is unanswered: the actor hangs' if is_deaf else 'answers: the engine hangs'}"
        )

    def _send(self, sampler: SamplerHandle, is_busy: bool) -> None:
        number = sampler.probe = next(self._numbers)
        sampler.probed_at = time.monotonic()
        sampler.asked_since = sampler.asked_since or sampler.probed_at
        ref = sampler.actor.probe.remote() if is_busy else sampler.actor.check.remote(self._patience)

        def answered(value: Any, error: BaseException | None) -> None:
            if sampler.probe != number:
                return  # excused meanwhile
            sampler.probe = None
            if error is not None:
                self._lost[sampler] = first_line(error)
            elif value is None or not sampler.calls or value.tokens_generated != sampler.tokens_seen:
                sampler.tokens_seen = -1 if value is None else value.tokens_generated
                sampler.note_sign()

        self._inbox.expect(ref, answered)
