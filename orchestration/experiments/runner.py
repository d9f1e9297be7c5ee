"""Runs what is left of an experiment, one run after the other in this process, on actors that live on between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from orchestration.experiments.arms import ArmRun
from orchestration.experiments.warm import WarmStack
from orchestration.run_stack import OpenStack, own_stack
from orchestration.signals import StopSignals
from orchestration.training import train
from quorum.errors import ConfigError, Interrupted, QuorumError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run."""

    run: ArmRun
    error: QuorumError | None = None
    seconds: float = 0.0
    """Of this call; 0 for one that was done before."""

    @property
    def is_done(self) -> bool:
        return self.error is None


def run_all(runs: Sequence[ArmRun], say: Callable[[str], None], *, is_warm: bool = True) -> list[Outcome]:
    """Train each run to its end, or go on with it; one that is done is left alone. A failed one holds up no other.

    Args:
        runs: in their order.
        say: told of each beginning and end.
        is_warm: keep samplers and ranks from run to run where that changes nothing.

    Returns:
        In the same order.

    Raises:
        ConfigError: before anything starts: a directory holds another run.
        Interrupted: Ctrl-C or SIGTERM; the run at hand was saved, and the next call goes on with it.
    """
    standings = _standings(runs)
    outcomes = []
    with StopSignals(), WarmStack() if is_warm else nullcontext() as warm:
        open_stack = own_stack if warm is None else warm.lend
        for number, run in enumerate(runs, 1):
            if standings[number - 1] == "done":
                say(f"{run.name}: done before ({number} of {len(runs)})")
                outcomes.append(Outcome(run))
                continue
            say(f"{run.name}: {run.config.run.num_steps} steps ({number} of {len(runs)}), in {run.path}")
            outcomes.append(_run(run, standings[number - 1] == "begun", open_stack, say))
    return outcomes


def _standings(runs: Sequence[ArmRun]) -> list[str]:
    standings, problems = [], []
    for run in runs:
        try:
            standings.append(run.standing())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return list(standings)


def _run(run: ArmRun, is_begun: bool, open_stack: OpenStack, say: Callable[[str], None]) -> Outcome:
    began = time.monotonic()
    try:
        train(run.config, resume=run.path if is_begun else None, open_stack=open_stack)
    except Interrupted as stopped:
        stopped.add_note("the same command goes on with the experiment")
        raise
    except QuorumError as error:
        say(f"{run.name}: failed: {error}")
        return Outcome(run, error, time.monotonic() - began)
    return Outcome(run, seconds=time.monotonic() - began)
