"""A whole plan: memory of both sides, whether it fits, what to change, the split of the GPUs and what a step costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from configs.schema import RunConfig
from orchestration.planning.balance import Step, best_split, expected_step
from orchestration.planning.devices import Device
from orchestration.planning.learner_memory import learner_memory
from orchestration.planning.parts import Memory
from orchestration.planning.rates import Rates, estimated, mean_tokens, sync_seconds, with_mean
from orchestration.planning.remedies import learner_remedy, sampler_remedy
from orchestration.planning.sampler_memory import SamplerMemory, sampler_memory
from orchestration.planning.shape import ModelShape

HEADROOM = 0.92
"""Of a GPU that a rank may plan with: CUDA's context, NCCL's buffers and fragmentation take the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What there is."""

    gpus: int
    gpu_bytes: float
    gpus_per_node: int
    device: Device
    price: float | None = None
    """Of one GPU for one hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The plan."""

    config: RunConfig
    shape: ModelShape
    hardware: Hardware
    learner: Memory
    sampler: SamplerMemory
    rates: Rates
    configured: Step
    recommended: Step | None
    """None where no split fits."""
    problems: tuple[str, ...]
    """What does not fit, and what to change."""

    def gpu_hours(self, step: Step) -> float:
        """Of one step, idle GPUs included."""
        return self.hardware.gpus * step.seconds / 3600

    def as_json(self) -> dict[str, Any]:
        """Everything, in bytes and seconds."""
        sampler = self.sampler
        return {
            "model": self.shape.name,
            "num_parameters": self.shape.num_parameters,
            "gpus": self.hardware.gpus,
            "gpu_bytes": self.hardware.gpu_bytes,
            "learner": {
                "parts": [
                    {"name": p.name, "bytes": round(p.num_bytes), "place": p.place, "phase": p.phase}
                    for p in self.learner.parts
                ],
                "device_bytes": round(self.learner.peak("device")),
                "host_bytes": round(self.learner.peak("host")),
            },
            "sampler": {
                "parts": [{"name": p.name, "bytes": round(p.num_bytes)} for p in sampler.memory.parts],
                "kv_bytes_per_token": sampler.kv_bytes_per_token,
                "cached_tokens": sampler.cached_tokens,
                "concurrent_full": sampler.concurrent_full,
                "concurrent_mean": sampler.concurrent_mean,
            },
            "rates": {name: getattr(self.rates, name) for name in Rates.__dataclass_fields__},
            "configured": self._step(self.configured),
            "recommended": None if self.recommended is None else self._step(self.recommended),
            "problems": list(self.problems),
        }

    def _step(self, step: Step) -> dict[str, Any]:
        names = ("num_samplers", "num_ranks", "gpus", "rollout_seconds", "learn_seconds", "sync_seconds", "seconds")
        values: dict[str, Any] = {name: getattr(step, name) for name in names}
        values |= {"limited_by": step.limited_by, "gpu_hours": self.gpu_hours(step)}
        return values | ({"cost": self.gpu_hours(step) * self.hardware.price} if self.hardware.price else {})


def make_estimate(
    config: RunConfig,
    shape: ModelShape,
    hardware: Hardware,
    *,
    given: Rates | None = None,
    mean_completion_tokens: float | None = None,
) -> Estimate:
    """Plan a run.

    Args:
        config: of the run.
        shape: of its model.
        hardware: what there is.
        given: measured rates; None estimates them from the device's data sheet.
        mean_completion_tokens: expected; None takes that of `given`, or half of the longest.
    """
    mean = mean_completion_tokens or (given.mean_completion_tokens if given else mean_tokens(config, None))
    learner = learner_memory(config, shape, on_gpu=True)
    sampler = sampler_memory(config, shape, device_bytes=hardware.gpu_bytes, mean_completion_tokens=mean)
    room = HEADROOM * hardware.gpu_bytes

    def with_ranks(ranks: int) -> RunConfig:
        return config.model_copy(update={"learner": config.learner.model_copy(update={"num_ranks": ranks})})

    def fits(ranks: int) -> bool:
        return sampler.fits and learner_memory(with_ranks(ranks), shape, on_gpu=True).peak("device") <= room

    def step(samplers: int, ranks: int) -> Step:
        rollout = config.rollout.model_copy(update={"num_samplers": samplers, "fleet": ()})
        rates = (
            with_mean(given, mean)
            if given
            else estimated(config.model_copy(update={"rollout": rollout}), shape, sampler, hardware.device, mean)
        )
        crosses = hardware.gpus > hardware.gpus_per_node
        sync = sync_seconds(config, shape, hardware.device, num_ranks=ranks, crosses_nodes=crosses)
        return expected_step(config, rates, samplers, ranks, sync)

    configured = step(config.rollout.num_started, config.learner.num_ranks)
    # Ranks that share GPUs with samplers come in pairs with them: their number is no setting of its own.
    free = (
        config.learner.num_ranks
        if config.cluster.colocate
        else hardware.gpus - configured.gpus + config.learner.num_ranks
    )
    problems = [*learner_remedy(config, shape, learner, room, free), *sampler_remedy(config, shape, sampler)]
    problems += _too_many(config, hardware, configured)
    best = best_split(config, hardware.gpus, hardware.gpus_per_node, fits=fits, step=step)
    rates = with_mean(given, mean) if given else estimated(config, shape, sampler, hardware.device, mean)
    return Estimate(
        config=config,
        shape=shape,
        hardware=hardware,
        learner=learner,
        sampler=sampler,
        rates=rates,
        configured=configured,
        recommended=best,
        problems=tuple(problems),
    )


def _too_many(config: RunConfig, hardware: Hardware, configured: Step) -> Iterator[str]:
    """What is more than there is."""
    if configured.gpus > hardware.gpus:
        yield f"the configuration takes {configured.gpus} GPUs of {hardware.gpus} that are there; see the split below"
    workers = config.rollout.tensor_parallel_size
    if workers > hardware.gpus_per_node:
        yield (
            f"rollout.tensor_parallel_size {workers} is above the {hardware.gpus_per_node} GPUs of a node, which the "
            "workers of one sampler share: lower it, or raise --gpus-per-node"
        )
