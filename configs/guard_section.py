"""The configuration of the collapse guard: what it watches, and what it does about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.sections import NonNegativeInt, Plugin, PositiveInt, Section

GuardAction = Literal["lower_lr", "raise_kl", "rollback", "stop"]
"""What the guard may do besides saying what it sees."""


class GuardSection(Section):
    """Watches a run for collapse without any label (docs/guard.md). Its alarms are always logged."""

    detectors: tuple[Plugin, ...] = ()
    """Which detectors watch, with options of your own; empty: all of them, as they ship."""
    warn_at: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Score from which it warns."""
    alarm_at: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Score from which it raises an alarm: one strong detector, or two weak ones that watch different metrics."""
    on_warning: tuple[GuardAction, ...] = ()
    """What a warning does. lower_lr: learning rate times learning_rate_factor; raise_kl: weight of the KL penalty times
    kl_factor, both for the rest of the run; rollback: go on from the healthiest checkpoint on a new branch, with other
    seeds; stop: end with exit code 6. Several are done together."""
    on_alarm: tuple[GuardAction, ...] = ()
    """What an alarm does; it only speaks where this is empty."""
    patience_steps: PositiveInt = 20
    """Steps after which a warning or alarm that still stands acts again."""
    max_rollbacks: NonNegativeInt = 2
    """Rollbacks of the whole run, counted outside its checkpoints."""
    when_spent: Literal["stop", "log"] = "stop"
    """What a rollback does instead when none is left."""
    learning_rate_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of lower_lr, each time."""
    kl_factor: Annotated[float, Field(gt=1)] = 2.0
    """Of raise_kl, each time."""

    @property
    def actions(self) -> frozenset[str]:
        """Everything that it may do."""
        return frozenset((*self.on_warning, *self.on_alarm))
