"""When a lost sampler is replaced: at once the first time, later with back-off, and within a budget per hour."""

from __future__ import annotations

from collections import deque

from configs.rollout_sections import RestartSection

HOUR_SECONDS = 3600.0
MAX_FAILED_STARTS = 3
"""In a row for one slot; then it is given up."""


class Restarts:
    """The restart budget of a pool. Time is passed in, in seconds of a monotonic clock."""

    def __init__(self, section: RestartSection) -> None:
        self._section = section
        self._times: deque[float] = deque()
        self._fruitless: dict[int, int] = {}
        """By slot: samplers lost in a row that had finished no group."""
        self._failed_starts: dict[int, int] = {}

    def note_start_failed(self, slot: int) -> None:
        self._failed_starts[slot] = self._failed_starts.get(slot, 0) + 1

    def note_started(self, slot: int) -> None:
        self._failed_starts.pop(slot, None)

    def due(self, slot: int, now: float, *, did_work: bool) -> float | None:
        """When the sampler of a slot that was lost just now is to be replaced; None: never.

        Args:
            slot: of the sampler.
            now: in seconds.
            did_work: whether it had finished a group.
        """
        while self._times and now - self._times[0] > HOUR_SECONDS:
            self._times.popleft()
        if len(self._times) >= self._section.max_restarts or self._failed_starts.get(slot, 0) >= MAX_FAILED_STARTS:
            return None
        self._times.append(now)
        self._fruitless[slot] = fruitless = 0 if did_work else self._fruitless.get(slot, 0) + 1
        if fruitless <= 1:
            return now
        wait = self._section.backoff_seconds * 2.0 ** (fruitless - 2)
        return now + min(wait, self._section.max_backoff_seconds)

    def why_none(self, slot: int) -> str:
        """The reason of a None."""
        if self._failed_starts.get(slot, 0) >= MAX_FAILED_STARTS:
            return f"{MAX_FAILED_STARTS} replacements in a row did not start"
        return f"{self._section.max_restarts} samplers were replaced within the hour (rollout.restart.max_restarts)"
