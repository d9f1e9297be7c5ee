"""A run of the real driver, pool, voters and log over simulated samplers and a simulated learner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.simulated_learner import SimulatedLearner
from orchestration.attempts import Attempts
from orchestration.loop import TrainingLoop
from orchestration.preflight import preflight
from orchestration.registries import load_run_config
from orchestration.run_dir import RunDir
from orchestration.scaling import Scaling
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.watch.display import Display
from rollout.settings import NO_VERSION


@contextmanager
def simulated_run(
    root: Path, model: Path, prompts: Path, learner: SimulatedLearner, *words: str
) -> Iterator[TrainingLoop]:
    """The loop of a run on this machine, with weights at version 0 published.

    Args:
        root: for the run directory.
        model: its tokenizer renders the prompts; it is not loaded.
        prompts: JSONL.
        learner: stands in for the ranks.
        *words: `section.field=value` besides the bench preset's.
    """
    overrides: Sequence[str] = (
        f"run.dir={root}",
        f"model.path={model}",
        f"data.train.0.path={prompts}",
        "rollout.engine.name=fake",
        "voting.extractor=boxed",
        "sync.verify_every=0",
        *words,
    )
    config = load_run_config("bench", list(overrides))
    checked = preflight(config, new_run=True)
    plan = replace(checked.plan, num_ranks=0)
    run_dir = RunDir.create(config)
    with StopSignals() as signals, Display(config, run_dir.path, live=False) as display:
        stack = Stack.start(config, plan, run_dir.info.namespace, with_learner=False, initial_version=NO_VERSION)
        scaling = None
        try:
            ours: Any = learner
            stack.learner = ours
            scaling = Scaling.open(config, stack, run_dir.info.namespace, display.event)
            attempts = Attempts(config, run_dir, checked, display, signals, stack, None, scaling)
            with attempts.open() as loop:
                loop.publish_start()
                yield loop
        finally:
            if scaling is not None:
                scaling.close()
            stack.stop()
            run_dir.close()
