"""One set of actors for run after run: ranks are rebuilt in their processes, samplers get the base's weights by the
ordinary weight sync. Where a run needs others it starts cold, and says why.

A run on lent actors has the canonical ledger and the weights of the same run on its own:
`tests/integration/test_experiments.py` compares them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

from configs.schema import RunConfig
from orchestration.run_stack import StackRequest
from orchestration.signals import StopSignals
from orchestration.stack import Stack, with_absolute_model
from quorum.errors import QuorumError
from rollout.handle import SamplerState
from voting.service import VotingService

_FIXED = (
    "model",
    "run.plugins",
    "rollout.engine",
    "rollout.num_samplers",
    "rollout.min_samplers",
    "rollout.tensor_parallel_size",
    "rollout.fleet",
    "rollout.dtype",
    "rollout.dispatch",
    "rollout.restart",
    "rollout.autoscale",
    "learner.num_ranks",
    "learner.zero_stage",
    "learner.offload",
    "learner.sequence_parallel_size",
    "sync.backend",
    "cluster",
    "deadlines",
    "max_model_len",
)
"""What living processes were started with."""


def changed_fields(old: RunConfig, new: RunConfig) -> list[str]:
    """Settings between two runs that living processes cannot take over."""
    return [name for name in _FIXED if _at(old, name) != _at(new, name)]


class WarmStack:
    """Lends its actors to one run at a time. A context manager that stops them at the end.

    consumes: requests of runs.  waits for: ranks, and replicas where the vote differs.  unblocked by: the run's end.
    produces: a stack on which no trace of the run before is left.
    """

    def __init__(self) -> None:
        self._stack: Stack | None = None
        self._config: RunConfig | None = None
        """Of the run that has them, or had them last."""

    def __enter__(self) -> WarmStack:
        return self

    def __exit__(self, *_: object) -> None:
        with StopSignals() as signals:
            self.close(signals)

    @contextmanager
    def lend(self, request: StackRequest) -> Iterator[Stack]:
        """Actors for one run; see `orchestration.run_stack.OpenStack`. After an error in it they are stopped."""
        try:
            if self._stack is not None and (why := self._why_cold(request)):
                request.say(f"starts cold: {why}")
                self.close(request.signals)
            self._stack = stack = request.start() if self._stack is None else self._renewed(self._stack, request)
            self._config = with_absolute_model(request.config)
            yield stack
        except BaseException:
            self.close(request.signals)
            raise
        for pool in stack.pools:
            if pool.num_unfinished:  # of the overlapped schedule, for steps that do not come
                pool.abandon()

    def close(self, signals: StopSignals) -> None:
        """Stop all actors. Idempotent."""
        stack, self._stack = self._stack, None
        if stack is None:
            return
        with signals.ignored():
            try:
                stack.stop()
            except QuorumError as error:
                sys.stderr.write(f"quorum: while stopping: {error}\n")

    def _why_cold(self, request: StackRequest) -> str:
        """Why the actors there are do not fit; empty when they do."""
        stack, config = self._stack, with_absolute_model(request.config)
        assert stack is not None and self._config is not None
        if changed := changed_fields(self._config, config):
            return f"other {', '.join(changed)} than the run before"
        if stack.learner is None or stack.pool is None or config.run.mode != "train":
            return f"run.mode={config.run.mode}"
        if stack.teachers is not None or request.teacher is not None:
            return "a teacher's samplers are started for one run"
        if stack.plan.colocate:
            return "samplers and ranks share GPUs"
        if stack.plan != request.plan:
            return "it needs another number of processes"
        samplers = stack.pool.samplers
        unwell = [s.sampler_id for s in samplers if s.state is not SamplerState.READY]
        if unwell or len(samplers) != request.plan.num_samplers:
            return f"of {len(samplers)} samplers {len(unwell)} are not ready, {request.plan.num_samplers} are wanted"
        return ""

    def _renewed(self, stack: Stack, request: StackRequest) -> Stack:
        """The same processes without a trace of the run before."""
        assert stack.learner is not None and self._config is not None
        began, config = time.monotonic(), with_absolute_model(request.config)
        stack.learner.rebuild(config)
        if request.checkpoint is not None:
            stack.learner.load(str(request.checkpoint))
        rebuilt = time.monotonic()
        if config.voting != self._config.voting:
            stack.voting.stop(config.deadlines.stop_seconds)
            stack.voting = VotingService.start(
                config.voting,
                plugins=config.run.plugins,
                deadlines=config.deadlines,
                actor_options={"num_cpus": 1},
                namespace=request.namespace,
            )
        stack.voting.events.clear()
        request.times.parts |= {"learner": rebuilt - began, "voting": time.monotonic() - rebuilt}
        request.say("warm: samplers and ranks of the run before go on from this run's base")
        return replace(stack, config=config)


def _at(config: RunConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), config)
