"""Memory of a sampler: weights, the KV cache that is left beside them, and how many completions fit into it."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import RunConfig
from orchestration.planning.activations import FLOAT, HALF
from orchestration.planning.parts import Memory, Part
from orchestration.planning.shape import ModelShape
from rollout.engines.vllm_options import SHARED_GPU_SHARE

GIB = 2**30
GPU_MEMORY_UTILIZATION = 0.9
"""vLLM's default share of the device."""
MAX_BATCHED_TOKENS = 8192
"""Tokens of one forward pass that vLLM sets memory aside for."""
MAX_NUM_SEQS = 1024
"""vLLM's default limit of running completions on a GPU of this size."""
RUNTIME_BYTES = 2.0e9
"""CUDA context, communication buffers and CUDA graphs of one worker: an allowance, not measured here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerMemory:
    """Of one worker of a sampler."""

    memory: Memory
    limit_bytes: float
    """What the engine may take of the device."""
    kv_bytes_per_token: float
    """On each worker."""
    kv_cache_bytes: float
    """What is left for it; 0 where not even the rest fits."""
    cached_tokens: int
    concurrent_full: int
    """Completions of the longest length, prompt included, that are in the cache at once."""
    concurrent_mean: int
    """Completions of the expected mean length."""

    @property
    def fits(self) -> bool:
        return self.concurrent_full >= 1


def kv_bytes_per_token(shape: ModelShape, tensor_parallel_size: int, width: int) -> float:
    """Keys and values of one token on one worker; heads are copied where there are fewer than workers."""
    heads = max(1.0, shape.kv_heads / tensor_parallel_size)
    return 2 * shape.kv_layers * heads * shape.head_dim * width


def sampler_memory(
    config: RunConfig, shape: ModelShape, *, device_bytes: float | None, mean_completion_tokens: float
) -> SamplerMemory:
    """Of one worker.

    Args:
        config: of the run; `gpu_memory_utilization` and `max_num_seqs` are taken from rollout.engine.options.
        shape: of the model.
        device_bytes: memory of the device; None on a CPU, where cluster.kv_cache_gib is the cache.
        mean_completion_tokens: expected.
    """
    rollout, options = config.rollout, config.rollout.engine.options
    width = FLOAT if rollout.dtype == "float32" else HALF
    workers = rollout.tensor_parallel_size
    weights = width * shape.num_parameters / workers
    per_token = kv_bytes_per_token(shape, workers, width)
    batched = int(options.get("max_num_batched_tokens", MAX_BATCHED_TOKENS))
    working = batched * width * (2 * shape.intermediate / workers + 4 * shape.hidden)
    sequences = int(options.get("max_num_seqs", MAX_NUM_SEQS))
    logits = 2 * FLOAT * sequences * shape.vocabulary / workers
    fixed = [Part("weights", weights), Part("activations of one pass", working), Part("logits", logits)]
    fixed += [Part("bucket of arriving weights", config.sync.bucket_mib * 2.0**20)]
    if device_bytes is None:
        limit, cache = float("inf"), config.cluster.kv_cache_gib * GIB
    else:
        usual = SHARED_GPU_SHARE if config.cluster.colocate else GPU_MEMORY_UTILIZATION
        share = float(options.get("gpu_memory_utilization", usual))
        fixed.append(Part("runtime", RUNTIME_BYTES))
        limit = share * device_bytes
        cache = max(0.0, limit - sum(part.num_bytes for part in fixed))
    tokens = int(cache / per_token)
    prompt = config.data.max_prompt_tokens
    return SamplerMemory(
        memory=Memory.of([*fixed, Part("KV cache", cache)]),
        limit_bytes=limit,
        kv_bytes_per_token=per_token,
        kv_cache_bytes=cache,
        cached_tokens=tokens,
        concurrent_full=min(sequences, tokens // config.max_model_len),
        concurrent_mean=min(sequences, int(tokens / (prompt / 2 + mean_completion_tokens))),
    )
