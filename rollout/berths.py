"""Where samplers run and what each is made of: supplied to the pool by whoever knows the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from quorum.errors import ResourceError
from rollout.settings import SamplerSettings


class Berths(Protocol):
    """One berth per slot; a sampler's replacement takes the berth of the one that was lost."""

    def settings(self, slot: int) -> SamplerSettings:
        """What the sampler of a slot is made of; its id is unique among slots."""

    def options(self, slot: int) -> Mapping[str, Any]:
        """Ray options of its actor. Reserves the place at the first call and does not wait for it.

        Raises:
            ResourceError: there can be no sampler in this slot.
        """

    def release(self, slot: int) -> None:
        """Give the place back: no sampler of this slot will come again."""

    def why_unplaced(self, slot: int) -> str:
        """What the place needs and what is free, for the error of an actor that was not placed in time."""


class ListedBerths:
    """Berths that are there already, as many as are listed; no more can be added."""

    def __init__(self, settings: Sequence[SamplerSettings], options: Sequence[Mapping[str, Any]]) -> None:
        if len(settings) != len(options):
            raise ValueError(f"{len(settings)} samplers need as many actor options, got {len(options)}")
        self._settings, self._options = list(settings), list(options)

    def settings(self, slot: int) -> SamplerSettings:
        return self._settings[slot]

    def options(self, slot: int) -> Mapping[str, Any]:
        if slot >= len(self._options):
            raise ResourceError(f"there are places for {len(self._options)} samplers, and no more can be made here")
        return self._options[slot]

    def release(self, slot: int) -> None:
        """Whoever made the places gives them back."""

    def why_unplaced(self, slot: int) -> str:
        import ray

        options = self._options[slot]
        needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)} | options.get("resources", {})
        has = {name: value for name, value in ray.cluster_resources().items() if name in needs}
        free = {name: value for name, value in ray.available_resources().items() if name in needs}
        return f"it needs {_amounts(needs)}; the cluster has {_amounts(has)}, free {_amounts(free)}"


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} {name}" for name, value in resources.items() if value) or "nothing"
