"""Where a run's actors come from: started for it and stopped after it, unless somebody lends them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig
from orchestration.labels import Teacher
from orchestration.plan import ResourcePlan
from orchestration.run_mode import start_stack
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.start_times import StartTimes
from quorum.errors import QuorumError


@dataclass(frozen=True, slots=True)
class StackRequest:
    """What one run needs of its actors."""

    config: RunConfig
    plan: ResourcePlan
    namespace: str
    """In which they are named, where they are started for it."""
    teacher: Teacher | None
    checkpoint: Path | None
    """That the ranks hold; None: the base model."""
    signals: StopSignals
    times: StartTimes
    say: Callable[[str], None]
    """Told of what the run's events should name."""

    def start(self) -> Stack:
        """Start all of them."""
        return start_stack(
            self.config,
            self.plan,
            self.namespace,
            teacher=self.teacher,
            checkpoint=self.checkpoint,
            times=self.times,
        )


OpenStack = Callable[[StackRequest], AbstractContextManager[Stack]]
"""Gives a run its actors, and takes them back when it ends."""


@contextmanager
def own_stack(request: StackRequest) -> Iterator[Stack]:
    """Actors of this run alone."""
    stack = request.start()
    with stopping(stack, request.signals):
        yield stack


@contextmanager
def stopping(stack: Stack, signals: StopSignals) -> Iterator[None]:
    """Stop the stack whatever happens; an error in stopping never hides the one that led to it."""
    try:
        yield
    except BaseException:
        with signals.ignored():
            try:
                stack.stop()
            except QuorumError as exc:
                sys.stderr.write(f"quorum: while stopping: {exc}\n")
        raise
    with signals.ignored():
        stack.stop()
