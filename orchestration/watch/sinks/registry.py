"""The metric sinks by name."""

from __future__ import annotations

from orchestration.watch.sinks.mlflow import MlflowOptions, MlflowSink
from orchestration.watch.sinks.prometheus import PrometheusOptions, PrometheusSink
from orchestration.watch.sinks.tensorboard import TensorBoardOptions, TensorBoardSink
from orchestration.watch.sinks.wandb import WandbOptions, WandbSink
from quorum.registry import Entry, Registry

SINKS: Registry = {
    "wandb": Entry(WandbSink, WandbOptions),
    "mlflow": Entry(MlflowSink, MlflowOptions),
    "prometheus": Entry(PrometheusSink, PrometheusOptions),
    "tensorboard": Entry(TensorBoardSink, TensorBoardOptions),
}
"""Each target is called with (SinkRun, options) and gives a MetricSink; it connects in `open`, not before."""
