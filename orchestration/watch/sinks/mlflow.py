"""MLflow, through its client. Server and credentials come from MLflow's own environment variables
(MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN, ...), never from a configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from orchestration.watch.sinks.sink import Kept, SinkRun, StepFacts
from quorum.errors import ResourceError
from quorum.registry import Options

MOST_VALUE = 500
"""Characters of a parameter; servers refuse longer ones."""
MOST_PARAMS = 100
"""Parameters of one call."""


class MlflowOptions(Options):
    """Options of the `mlflow` sink."""

    experiment: str = "quorum"
    """Experiment on the server; made if it is not there."""


class MlflowSink:
    """One run of MLflow per run of ours, continued by a resume."""

    def __init__(self, run: SinkRun, options: MlflowOptions) -> None:
        self._run, self._options = run, options
        self._client: Any = None
        self._id = run.kept.get("run_id", "")
        self._metric: Any = None

    def open(self) -> Kept:
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ResourceError("the mlflow package is not installed: `pip install mlflow`") from error
        self._metric, self._client = Metric, MlflowClient()
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
            return {"run_id": self._id}
        found = self._client.get_experiment_by_name(self._options.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._options.experiment)
        tags = {"quorum.run_id": self._run.run_id}
        self._id = self._client.create_run(experiment, tags=tags, run_name=self._run.name).info.run_id
        params = [Param(name, value[:MOST_VALUE]) for name, value in flat(self._run.config)]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MOST_PARAMS])
        return {"run_id": self._id}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[self._metric(name, value, now, step) for name, value in values.items()]
        )

    def observe(self, facts: StepFacts) -> None:
        rates = {f"sampler/{name}_tokens_per_second": rate for name, rate in facts.tokens_per_second.items()}
        if rates:
            self.write(facts.step, rates)

    def close(self, is_failed: bool) -> None:
        if self._client is not None and self._id:
            self._client.set_terminated(self._id, status="FAILED" if is_failed else "FINISHED")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of all leaves.

    Example:
        >>> list(flat({"run": {"seed": 0}, "data": [1]}))
        [('run.seed', '0'), ('data', '[1]')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
