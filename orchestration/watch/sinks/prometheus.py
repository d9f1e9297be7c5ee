"""Prometheus, through Ray's own metrics: every node of the cluster exposes what its processes record.

Ray puts `ray_` before each name. A gauge keeps its last value until the driver ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestration.watch.metrics import METRICS
from orchestration.watch.sinks.sink import Kept, SinkRun, StepFacts
from quorum.registry import Options

PREFIX = "quorum_"
STALENESS_BUCKETS = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5)
"""Between whole numbers of versions, so that every count falls inside a bucket; Ray wants them above 0."""
TRANSFER_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SAMPLER_TOKENS = PREFIX + "sampler_tokens_per_second"
SAMPLER_GROUPS = PREFIX + "sampler_running_groups"
QUEUE_DEPTH = PREFIX + "queue_depth_groups"
STALENESS = PREFIX + "staleness_versions"
TRANSFER = PREFIX + "transfer_seconds"
STEP = PREFIX + "step"


class PrometheusOptions(Options):
    """The `prometheus` sink has no options: Ray decides where it is scraped."""


def gauge_name(metric: str) -> str:
    """Of a metric of the registry, before Ray's prefix.

    Example:
        >>> gauge_name("vote/agreement_mean")
        'quorum_vote_agreement_mean'
    """
    return PREFIX + metric.replace("/", "_")


def exported_names() -> set[str]:
    """Every series that Prometheus can see of a run, with Ray's prefix and the suffixes of histograms."""
    names = {gauge_name(metric) for metric in METRICS} | {SAMPLER_TOKENS, SAMPLER_GROUPS, QUEUE_DEPTH, STEP}
    names |= {name + suffix for name in (STALENESS, TRANSFER) for suffix in ("_bucket", "_sum", "_count")}
    return {f"ray_{name}" for name in names}


class PrometheusSink:
    """Gauges and histograms of one run, tagged `run`; those of samplers also `sampler` and `device`."""

    def __init__(self, run: SinkRun, options: PrometheusOptions) -> None:
        self._tags = {"run": run.name}
        self._gauges: dict[str, Any] = {}
        self._histograms: dict[str, Any] = {}
        self._seen: dict[str, dict[str, str]] = {}
        """Tags of the samplers that had a value."""

    def open(self) -> Kept:
        from ray.util.metrics import Histogram

        for name, buckets, text in (
            (STALENESS, STALENESS_BUCKETS, "Versions that a group's oldest token is behind the policy it trains"),
            (TRANSFER, TRANSFER_BUCKETS, "Publishing a version until every sampler holds it"),
        ):
            self._histograms[name] = Histogram(name, text, boundaries=list(buckets), tag_keys=("run",))
        return {}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._set(gauge_name(name), value, METRICS[name].help)

    def observe(self, facts: StepFacts) -> None:
        self._set(STEP, facts.step, "Step that was done last")
        self._set(QUEUE_DEPTH, facts.queue_depth, "Groups that wait for a sampler")
        for name in facts.devices:
            self._seen[name] = {"sampler": name, "device": facts.devices[name]}
        for name, tags in self._seen.items():  # one that is gone shows 0, not its last value for ever
            rate = facts.tokens_per_second.get(name, 0.0)
            self._set(SAMPLER_TOKENS, rate, "Completion tokens per second of one sampler", tags)
            self._set(SAMPLER_GROUPS, facts.running_groups.get(name, 0), "Groups running on one sampler", tags)
        for age in facts.ages:
            self._histograms[STALENESS].observe(age, tags=self._tags)
        if facts.transfer_seconds is not None:
            self._histograms[TRANSFER].observe(facts.transfer_seconds, tags=self._tags)

    def close(self, is_failed: bool) -> None:
        """Nothing: Ray forgets a process's metrics when it ends."""

    def _set(self, name: str, value: float, text: str, tags: Mapping[str, str] | None = None) -> None:
        from ray.util.metrics import Gauge

        more = dict(tags or {})
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, text, tag_keys=("run", *more))
        self._gauges[name].set(float(value), tags={**self._tags, **more})
