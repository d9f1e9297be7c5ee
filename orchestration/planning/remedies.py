"""Which setting to change when a side does not fit: those tried that make it fit, the least costly first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from configs.schema import RunConfig
from orchestration.planning.learner_memory import learner_memory
from orchestration.planning.parts import Memory
from orchestration.planning.sampler_memory import SamplerMemory
from orchestration.planning.shape import ModelShape

GB = 1e9


def learner_remedy(config: RunConfig, shape: ModelShape, memory: Memory, room: float, most_ranks: int) -> list[str]:
    """What to change when a rank needs more than `room` bytes of its device; empty where it fits.

    Args:
        config: of the run.
        shape: of the model.
        memory: of a rank, as configured.
        room: bytes of its device that it may take.
        most_ranks: that there are GPUs for.
    """
    needed = memory.peak("device")
    if needed <= room:
        return []
    worst = memory.largest("device")
    words = (
        f"a learner rank needs {needed / GB:.1f} GB in its {memory.peak_phase('device')} phase, and may take "
        f"{room / GB:.1f}; most of it are {worst.name} ({worst.num_bytes / GB:.1f} GB)"
    )
    for changes in _candidates(config):
        if changes.get("num_ranks", 0) > most_ranks:
            continue
        changed = _with(config, changes)
        if learner_memory(changed, shape, on_gpu=True).peak("device") <= room:
            return [f"{words}: set {_named(changes)}"]
    return [f"{words}: no single setting makes it fit; take learner.lora.rank, a smaller model or larger GPUs"]


def sampler_remedy(config: RunConfig, shape: ModelShape, sampler: SamplerMemory) -> list[str]:
    """What to change when a sampler has no room for one completion; empty where it has."""
    if sampler.fits:
        return []
    weights = sampler.memory.named("weights")
    size = config.rollout.tensor_parallel_size
    larger = next((n for n in (2, 4, 8, 16) if n > size and shape.heads % n == 0), None)
    fix = f"rollout.tensor_parallel_size={larger}" if larger else "larger GPUs"
    return [
        f"a sampler's worker has {sampler.kv_cache_bytes / GB:.1f} GB for keys and values beside {weights / GB:.1f} GB "
        f"of weights, and one completion of {config.max_model_len:,} tokens takes "
        f"{config.max_model_len * sampler.kv_bytes_per_token / GB:.2f}: set {fix}, or lower "
        "rollout.max_completion_tokens"
    ]


def _candidates(config: RunConfig) -> Iterator[dict[str, Any]]:
    """Changes to try, those that cost least time first; then all of them together."""
    section = config.learner
    longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    single: list[dict[str, Any]] = []
    tokens = section.max_tokens_per_micro_batch
    while tokens > longest:
        tokens = max(longest, tokens // 2)
        single.append({"max_tokens_per_micro_batch": tokens})
    if not section.gradient_checkpointing:
        single.append({"gradient_checkpointing": True})
    single += [{"zero_stage": stage} for stage in range(section.zero_stage + 1, 4)]
    single += [{"num_ranks": section.num_ranks * factor} for factor in (2, 4, 8) if section.zero_stage]
    if section.offload == "none":
        single.append({"zero_stage": max(1, section.zero_stage), "offload": "optimizer"})
    yield from single
    base = {"gradient_checkpointing": True, "zero_stage": 3, "max_tokens_per_micro_batch": min(tokens, longest)}
    for extra in ({}, {"offload": "optimizer"}, {"offload": "all"}):
        yield base | extra
    for factor in (2, 4, 8, 16, 32):
        yield base | {"num_ranks": section.num_ranks * factor}


def _with(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    return config.model_copy(update={"learner": config.learner.model_copy(update=changes)})


def _named(changes: dict[str, Any]) -> str:
    words: Sequence[str] = [f"learner.{name}={str(value).lower()}" for name, value in changes.items()]
    return " ".join(words)
