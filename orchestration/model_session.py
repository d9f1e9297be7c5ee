"""Samplers and voters without a learner, open for one command: to evaluate a model, or to have it label prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from orchestration.attempts import start_log
from orchestration.preflight import preflight
from orchestration.rollout_phase import RolloutPhase
from orchestration.run_dir import RunDir
from orchestration.run_stack import stopping
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.training import dropped_notes
from orchestration.watch.display import Display
from quorum.types import Prompt


@dataclass(frozen=True, slots=True)
class ModelSession:
    """What a command draws groups with."""

    path: Path
    """The directory that was made."""
    prompts: tuple[Prompt, ...]
    """Of `evaluation.data`."""
    rollout: RolloutPhase
    log: Any
    """Actor handle of the group log."""
    display: Display


@contextmanager
def open_session(config: RunConfig, live: bool | None) -> Iterator[ModelSession]:
    """Check the configuration, make its directory, start everything; stop it all on leaving.

    Args:
        config: the model is `model.path`, the prompts are `evaluation.data`.
        live: show the live display; None decides by the terminal.

    Raises:
        ConfigError, DataError, ResourceError: before anything starts.
        StageError: a stage failed.
    """
    with StopSignals() as signals, ExitStack() as cleanup:
        checked = preflight(config, new_run=True, with_learner=False)
        run_dir = RunDir.create(config)
        cleanup.enter_context(run_dir.recording_end())
        display = cleanup.enter_context(Display(config, run_dir.path, live=live))
        for note in dropped_notes(checked):
            display.event(note)
        display.phase("start", "samplers and voters")
        stack = Stack.start(config, checked.plan, run_dir.info.namespace, with_learner=False, initial_version=0)
        cleanup.enter_context(stopping(stack, signals))
        log = start_log(run_dir.path, 0)
        rollout = RolloutPhase(config, stack, log, signals.check, display.event)
        assert checked.evaluation is not None
        yield ModelSession(run_dir.path, checked.evaluation.prompts, rollout, log, display)
