"""How many tokens a sampler and a rank get through per second: measured by a run, given in a file, or estimated."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from learner.orders import needs_reference
from orchestration.planning.activations import FLOAT, HALF
from orchestration.planning.devices import Device
from orchestration.planning.sampler_memory import SamplerMemory, kv_bytes_per_token
from orchestration.planning.shape import ModelShape
from quorum.errors import ConfigError

DECODE_SHARE = 0.6
"""Of the memory's bandwidth that decoding is taken to reach."""
PREFILL_SHARE = 0.5
"""Of the peak that computing prompts is taken to reach."""
LEARNER_SHARE = 0.4
"""Of the peak that an update is taken to reach, in 6 operations per parameter and token."""
MEAN_SHARE = 0.5
"""Mean length of a completion over the longest, where nothing is known."""
NETWORK = 50e9
"""Bytes per second between nodes: 400 Gbit/s per device."""
GATHER = 5e9
"""Bytes per second at which rank 0 takes buckets from other ranks, over Gloo in host memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one sampler and one rank."""

    sampler_tokens_per_second: float
    """Completion tokens of one sampler, with all its workers, while it is busy."""
    learner_tokens_per_second: float
    """Trained completion tokens of one rank."""
    mean_completion_tokens: float
    sync_seconds: float | None = None
    """Of one version; None: estimated from its bytes."""
    source: str = "given"
    """Where they come from, in words."""


def mean_tokens(config: RunConfig, given: float | None) -> float:
    """Mean length of a completion: as given, or half of the longest."""
    return given or MEAN_SHARE * config.rollout.max_completion_tokens


def estimated(config: RunConfig, shape: ModelShape, sampler: SamplerMemory, device: Device, mean: float) -> Rates:
    """From the device's data sheet: a bound, times a share that such work is taken to reach. Nothing is measured.

    A pass of decoding reads the weights once and the keys and values of every running completion; an update computes
    6 operations per parameter and token (2 forward, 4 backward; arXiv 2001.08361), and its other passes.
    """
    workers = config.rollout.tensor_parallel_size
    running = max(1, min(sampler.concurrent_mean, _completions_per_sampler(config)))
    seconds = decode_seconds(config, shape, device, running, mean)
    trained = learner_flops_per_token(config, shape, mean)
    prompt = config.data.max_prompt_tokens / 2
    prefill = 2 * shape.num_parameters * prompt / config.rollout.completions_per_prompt
    prefill /= workers * device.flops * PREFILL_SHARE
    return Rates(
        sampler_tokens_per_second=mean / (mean * seconds / running + prefill),
        learner_tokens_per_second=LEARNER_SHARE * device.flops / trained,
        mean_completion_tokens=mean,
        source=f"estimated from the data sheet of {device.name}: decoding at {DECODE_SHARE:.0%} of the memory's "
        f"bandwidth with {running:,} completions at once, updates at {LEARNER_SHARE:.0%} of the peak",
    )


def decode_seconds(config: RunConfig, shape: ModelShape, device: Device, running: int, mean: float) -> float:
    """Of one pass that gives `running` completions a token each."""
    workers = config.rollout.tensor_parallel_size
    width = FLOAT if config.rollout.dtype == "float32" else HALF
    weights = width * shape.num_parameters / workers
    context = config.data.max_prompt_tokens / 2 + mean / 2
    cache = running * context * kv_bytes_per_token(shape, workers, width)
    arithmetic = 2 * shape.num_parameters * running / (workers * device.flops * PREFILL_SHARE)
    return max((weights + cache) / (device.bandwidth * DECODE_SHARE), arithmetic)


def learner_flops_per_token(config: RunConfig, shape: ModelShape, mean: float) -> float:
    """Operations per trained completion token, its share of the prompt included.

    Forward passes of 2 operations per parameter: update 1 + 2 backward, 1 more with checkpointing, and one per pass of
    reference, recomputed old log-probabilities, or critic (whose update costs as much as the policy's).
    """
    section = config.learner
    passes = 3.0 + (1.0 if section.gradient_checkpointing else 0.0)
    if section.lora.rank:
        passes -= 1.0  # no gradients of the frozen weights
    if section.algorithm.name == "ppo":
        passes = 2 * passes + 1
    passes *= section.epochs_per_step
    passes += 1.0 if needs_reference(section.kl) else 0.0
    passes += 1.0 if section.old_source == "recompute" else 0.0
    prompt = config.data.max_prompt_tokens / 2
    parameters = shape.num_parameters - shape.num_input_embedding
    # Scores and values: 4 operations per query element and token before it, half of the sequence in the mean.
    per_token = 2 * parameters + 2 * shape.layers * shape.query_size * (prompt + mean)
    return passes * per_token * (prompt + mean) / mean


def sync_seconds(config: RunConfig, shape: ModelShape, device: Device, *, num_ranks: int, crosses_nodes: bool) -> float:
    """Of one version: rank 0 gathers other ranks' buckets while it broadcasts; the slower of both counts."""
    whole = (FLOAT if config.rollout.dtype == "float32" else HALF) * shape.num_parameters
    if config.learner.lora.rank and config.sync.lora == "adapters":
        whole = FLOAT * shape.adapter_parameters(config.learner.lora)
    if config.cluster.colocate:
        return whole / device.link
    broadcast = whole / (NETWORK if crosses_nodes else device.link)
    return max(broadcast, whole * (num_ranks - 1) / num_ranks / GATHER)


def read_rates(source: str) -> Rates:
    """From a JSON file of the fields of `Rates`, or a run's metrics.

    Raises:
        ConfigError: neither, or something is missing in it.
    """
    path = Path(source)
    if path.is_file():
        return _from_file(path)
    from orchestration.run_dir import resolve_run

    return rates_of_run(resolve_run(source))


def _from_file(path: Path) -> Rates:
    known = {field.name for field in fields(Rates)} - {"source"}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(values) - known)
        rates = Rates(**{name: float(value) for name, value in values.items() if name in known}, source=str(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--rates {path}: {error}; expected a JSON object with sampler_tokens_per_second, "
            "learner_tokens_per_second, mean_completion_tokens and, if known, sync_seconds"
        ) from error
    problems = [f"{name}: unknown (known: {', '.join(sorted(known))})" for name in unknown]
    for name in values.keys() & known:
        value, may_be_zero = getattr(rates, name), name == "sync_seconds"
        if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
            problems.append(f"{name}: got {value:g}, must be a number {'of 0 or more' if may_be_zero else 'above 0'}")
    if problems:
        raise ConfigError([f"--rates {path}: {problem}" for problem in sorted(problems)])
    return rates


def rates_of_run(path: Path) -> Rates:
    """Medians over a run's steps but the first. Tokens per second of the samplers' busy time, where that is known.

    Raises:
        ConfigError: the run has too few steps.
    """
    from orchestration.run_dir import read_config
    from orchestration.watch.metrics import read_metrics

    rows: list[dict[str, Any]] = read_metrics(path).to_pylist()
    rows = [row for row in rows[1:] if row.get("rollout/tokens_per_second") and row.get("learn/tokens_per_second")]
    if not rows:
        raise ConfigError(
            f"--rates {path}: the run has no step after its first with rollout and learning; let it go on"
        )
    config = read_config(path)
    ranks, overlaps = config.learner.num_ranks, config.rollout.max_off_policy_steps > 0

    def median(values: list[float]) -> float:
        return statistics.median(values)

    return Rates(
        sampler_tokens_per_second=median([busy_rate(row, overlaps=overlaps) for row in rows]),
        learner_tokens_per_second=median([row["learn/tokens_per_second"] / ranks for row in rows]),
        mean_completion_tokens=median([row["rollout/completion_tokens_mean"] for row in rows]),
        sync_seconds=median([row.get("time/sync_seconds") or 0.0 for row in rows]),
        source=f"measured by {path}: medians of {len(rows)} steps",
    )


def busy_rate(row: dict[str, Any], *, overlaps: bool) -> float:
    """Of one sampler: tokens over the seconds in which samplers had work."""
    counted = row["time/step_seconds" if overlaps else "time/rollout_seconds"]
    tokens = row["rollout/tokens_per_second"] * counted
    idle = row.get("rollout/idle_share")
    busy = counted if idle is None else row["time/step_seconds"] * max(1e-3, 1.0 - idle)
    return tokens / busy / max(1.0, row.get("rollout/num_samplers") or 1.0)


def with_mean(rates: Rates, mean: float | None) -> Rates:
    """The same rates for completions of another mean length, if one is given."""
    return rates if mean is None else replace(rates, mean_completion_tokens=mean)


def _completions_per_sampler(config: RunConfig) -> int:
    rollout = config.rollout
    ahead = 1 + rollout.max_off_policy_steps
    return -(-ahead * rollout.prompts_per_step * rollout.completions_per_prompt // rollout.num_started)
