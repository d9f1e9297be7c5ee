"""What one sampler is made of. Built by the driver, read by the actor and its engine; imports no heavy library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NO_VERSION = -1
"""Held version of a sampler whose weights may be half-updated or are not known: it refuses every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """One sampler: a Ray actor that hosts one engine."""

    sampler_id: str
    """Name in errors, receipts and metrics, unique within a run."""
    model: str
    """Directory or hub name, with weights and tokenizer."""
    max_model_len: int
    """Context of the engine in tokens, prompt and completion together."""
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    tensor_parallel_size: int = 1
    """Engine workers; each is one receiver of a weight transfer."""
    device: Literal["cpu", "cuda"] = "cpu"
    plugins: tuple[str, ...] = ()
    """The user's modules, imported before the engine is looked up."""
    engine: str = "vllm"
    """Key in `rollout.engines.registry.ENGINES`."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Validated options of that engine."""
    num_threads: int = 1
    """CPU: threads per engine worker."""
    cpu_binding: str | None = None
    """CPU: cores of each tensor-parallel worker as "0-3", workers separated by "|"; None, and an engine of one worker,
    leave placement to the kernel."""
    kv_cache_gib: float = 1.0
    """CPU: KV cache in GiB. On GPUs the engine's own memory share decides."""
    seed: int = 0
    """Engine seed. Tokens do not depend on it: every completion brings its own."""
    weight_backend: Literal["gloo", "nccl", "ipc"] = "gloo"
    shares_device: bool = False
    """Whether learner and sampler take turns on one device: the engine then sleeps while the other works."""
    initial_version: int = 0
    """Policy version of the weights at `model`; NO_VERSION when a transfer has to come first."""
    stop_seconds: float = 30.0
    """Deadline for the engine's orderly end; then its processes are killed."""
    driver: tuple[str, int] | None = None
    """Ray node and process id of the driver; a sampler on the same node ends when that process does."""
    log_level: str = "ERROR"
    """Level of the engine's own log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProbe:
    """What an engine can say at once, also while it generates."""

    tokens_generated: int
    """Completion tokens sampled since the start, unfinished completions included: it grows while the engine lives."""
    num_running: int
    """Completions in the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerProbe:
    """Answer to a sampler's probe."""

    version: int
    tokens_generated: int
    num_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerInfo:
    """What the driver has to know of a started sampler, its processes above all."""

    sampler_id: str
    engine: str
    engine_version: str
    node_id: str
    pid: int
    """The actor."""
    process_group: int | None
    """Group of the actor and all its children, where the actor leads one of its own."""
    child_pids: tuple[int, ...]
    """Engine core, workers, resource trackers and the watchdog, as of the end of the start."""
    watchdog_pid: int | None = None
    """It sweeps up after the others, and ends by itself."""
    start_seconds: float
    ready_at: float = 0.0
    """Wall time at the end of the start: a process of one of these numbers that began later is somebody else's."""

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.pid, *self.child_pids)
