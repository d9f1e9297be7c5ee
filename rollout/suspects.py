"""Groups that samplers may have died of: they run alone, and are given up on evidence that chance kills cannot fake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rollout.handle import SamplerHandle, SamplerState, Work

SUSPECT_LOSSES = 2
"""Samplers lost with a group from which on it runs alone: one loss is no evidence, other groups were there too."""
CONVICTING_LOSSES = 2
"""Samplers lost with nothing but that group on them, after which it is given up, if they are more than were lost
without it lately: where samplers die anyway, the death of one that runs a group alone proves little."""
MOST_LOSSES_ALONE = 6
"""After so many it is given up whatever else happens."""


class Suspects:
    """Those that wait for a sampler of their own."""

    def __init__(self) -> None:
        self._waiting: list[Work] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._waiting)

    def takes(self, work: Work) -> bool:
        """Whether a group that waits again is suspected; then it waits here."""
        if work.losses < SUSPECT_LOSSES:
            return False
        self._waiting.append(work)
        return True

    @staticmethod
    def is_convicted(work: Work, num_lost: int) -> bool:
        """Whether a group is to be given up.

        Args:
            work: of the group.
            num_lost: samplers that the pool has lost lately.
        """
        alone, others = work.losses_alone, num_lost - work.losses
        return alone >= CONVICTING_LOSSES and (alone > others or alone >= MOST_LOSSES_ALONE)

    def placed(self, samplers: Sequence[SamplerHandle]) -> Iterator[tuple[Work, SamplerHandle]]:
        """Suspects whose sampler is free now. Each reserves the sampler that has least to finish first."""
        if not self._waiting:
            return
        ready = [sampler for sampler in samplers if sampler.state is SamplerState.READY]
        for work in list(self._waiting):
            sampler = next((one for one in ready if one.reserved_for is work), None)
            if sampler is None:
                free = [one for one in ready if one.reserved_for is None]
                if not free:
                    continue  # others may have one
                sampler = min(free, key=lambda one: one.load)
                self._release(work, samplers)
                sampler.reserved_for = work
            if sampler.is_idle:
                self._waiting.remove(work)
                yield work, sampler

    def clear(self) -> None:
        self._waiting.clear()

    @staticmethod
    def _release(work: Work, samplers: Sequence[SamplerHandle]) -> None:
        for sampler in samplers:
            if sampler.reserved_for is work:
                sampler.reserved_for = None
