"""Memory as a list of named parts, each on the device or on the host, and in the phases in which it is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Place = Literal["device", "host"]
Phase = Literal["always", "passes", "forward", "backward", "step"]
"""forward and backward: of a micro-batch; passes: both; step: reduction and optimizer call after them; always: all."""
PHASES = {
    "forward": ("always", "passes", "forward"),
    "backward": ("always", "passes", "backward"),
    "step": ("always", "step"),
}
"""When memory is compared -> what is there."""


@dataclass(frozen=True, slots=True)
class Part:
    """One reason for memory."""

    name: str
    num_bytes: float
    place: Place = "device"
    phase: Phase = "always"


@dataclass(frozen=True, slots=True)
class Memory:
    """All parts of one process."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Memory:
        """Parts without those of no bytes."""
        return cls(tuple(part for part in parts if part.num_bytes > 0))

    def peak(self, place: Place) -> float:
        """Bytes in the phase that takes more."""
        return max(self._sum(place, phase) for phase in PHASES)

    def peak_phase(self, place: Place) -> str:
        """Which phase that is."""
        return max(PHASES, key=lambda phase: self._sum(place, phase))

    def peak_anywhere(self) -> float:
        """Bytes of device and host together in the phase that takes more: the memory of a rank on a CPU."""
        return max(self._sum("device", phase) + self._sum("host", phase) for phase in PHASES)

    def largest(self, place: Place) -> Part:
        """The part that takes most at the peak."""
        return max(self._at(place, self.peak_phase(place)), key=lambda part: part.num_bytes)

    def without(self, name: str) -> Memory:
        """All but the parts of one name."""
        return Memory(tuple(part for part in self.parts if part.name != name))

    def named(self, name: str) -> float:
        """Bytes of all parts of one name."""
        return sum(part.num_bytes for part in self.parts if part.name == name)

    def _at(self, place: Place, phase: str) -> list[Part]:
        return [part for part in self.parts if part.place == place and part.phase in PHASES[phase]]

    def _sum(self, place: Place, phase: str) -> float:
        return sum(part.num_bytes for part in self._at(place, phase))
