"""A share that moves with the run's steps, for thresholds and mixtures on a schedule. Pure."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import model_validator

from configs.sections import NonNegativeInt, PositiveInt, Section, Share


class Ramp(Section):
    """From one share to another between two steps; constant before and after. A bare number is constant."""

    start: Share
    """Share up to step `begin`."""
    end: Share
    """Share from step `begin` + `steps` on."""
    steps: PositiveInt
    """Steps from start to end."""
    begin: NonNegativeInt = 0
    """Step, counted from 0, at which it starts to move."""
    shape: Literal["linear", "cosine"] = "linear"
    """How it moves: evenly, or slowly at both ends (half a cosine)."""

    @model_validator(mode="before")
    @classmethod
    def _accept_number(cls, value: Any) -> Any:
        """`share: 0.1` is short for the same share at every step."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"start": value, "end": value, "steps": 1} if is_number else value

    @classmethod
    def constant(cls, share: float) -> Ramp:
        """The same share at every step."""
        return cls(start=share, end=share, steps=1)

    @property
    def least(self) -> float:
        """The least it ever is."""
        return min(self.start, self.end)

    @property
    def greatest(self) -> float:
        """The most it ever is."""
        return max(self.start, self.end)

    def at(self, step: int) -> float:
        """The share in a step.

        Example:
            >>> ramp = Ramp(start=0.2, end=0.6, steps=10, begin=5)
            >>> [round(ramp.at(step), 3) for step in (0, 5, 10, 15, 99)]
            [0.2, 0.2, 0.4, 0.6, 0.6]
        """
        done = min(1.0, max(0.0, (step - self.begin) / self.steps))
        if done in (0.0, 1.0):
            return self.end if done else self.start
        if self.shape == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        return self.start + (self.end - self.start) * done
