"""Weights & Biases. The key comes from the environment (WANDB_API_KEY) or `wandb login`, never from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from orchestration.watch.sinks.sink import Kept, SinkRun, StepFacts
from quorum.errors import ResourceError
from quorum.registry import Options

STEP = "step"
"""The x axis. wandb's own step cannot go back, and the audit's values of a step come after later steps."""


class WandbOptions(Options):
    """Options of the `wandb` sink."""

    project: str = "quorum"
    """Project on the server."""
    entity: str | None = None
    """User or team; None takes the account's default."""
    mode: Literal["online", "offline"] | None = None
    """offline writes to the run directory, for `wandb sync` later; None goes by WANDB_MODE, then online."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""


class WandbSink:
    """One run of wandb per run of ours, continued by a resume."""

    def __init__(self, run: SinkRun, options: WandbOptions) -> None:
        self._run, self._options = run, options
        self._wandb: Any = None

    def open(self) -> Kept:
        try:
            import wandb
        except ImportError as error:
            raise ResourceError("the wandb package is not installed: `pip install wandb`") from error
        run_id = self._run.kept.get("id", self._run.run_id)
        self._wandb = wandb.init(
            entity=self._options.entity,
            project=self._options.project,
            dir=str(self._run.path),
            id=run_id,
            name=self._run.name,
            tags=list(self._options.tags) or None,
            config=dict(self._run.config),
            mode=self._options.mode,
            resume="allow",
            allow_val_change=True,
        )
        self._wandb.define_metric(STEP)
        self._wandb.define_metric("*", step_metric=STEP)
        return {"id": run_id}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._wandb.log({STEP: step, **values})

    def observe(self, facts: StepFacts) -> None:
        per_sampler = {f"sampler/{name}_tokens_per_second": rate for name, rate in facts.tokens_per_second.items()}
        if per_sampler:
            self._wandb.log({STEP: facts.step, **per_sampler})

    def close(self, is_failed: bool) -> None:
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(is_failed))
