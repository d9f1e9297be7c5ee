"""What learner and samplers tell each other about a weight transfer: who takes part, what comes, what arrived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class TensorMeta(NamedTuple):
    """One tensor of a published snapshot."""

    name: str
    dtype: str
    """torch dtype without the prefix: "bfloat16", "float32"."""
    shape: tuple[int, ...]


class AdapterMerge(NamedTuple):
    """A whole weight that receivers make themselves: what they read from the model directory, plus an adapter."""

    weight: TensorMeta
    """As it is loaded, in the samplers' type."""
    base_dtype: str
    """Type in which the learner holds the weight without its adapter: what was read is rounded to it first."""
    scale: float | None
    """alpha / rank; None for a weight without an adapter."""
    is_transposed: bool
    """Whether the weight is kept as [inputs, outputs]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferInit:
    """How one receiver process group is joined. Rank 0 is the learner; sampler workers follow.

    The wire format between learner and samplers: buckets are sent in `WeightManifest` order, each one a
    flat uint8 tensor of its tensors' bytes in order, by broadcast from rank 0.
    """

    backend: str
    """"gloo", "nccl" or "ipc"."""
    epoch: int
    """Membership number: who joins, returns or leaves starts a new one."""
    host: str
    port: int
    world_size: int
    """1 + workers of all samplers."""
    rank_offset: int
    """Rank of this sampler's first tensor-parallel worker; worker w has rank_offset + w."""
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightManifest:
    """What a published version consists of, bucket by bucket."""

    version: int
    incarnation: int
    buckets: tuple[tuple[TensorMeta, ...], ...]
    """Tensors of each bucket, in sending order."""
    merges: tuple[AdapterMerge, ...] = ()
    """Where adapters travel alone: all weights of the model, in loading order. Empty: the buckets hold the weights."""

    @property
    def tensors(self) -> tuple[TensorMeta, ...]:
        return tuple(meta for bucket in self.buckets for meta in bucket)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """One sampler's orders for one weight update."""

    manifest: WeightManifest
    epoch: int
    verify: bool
    """Whether to hash every received tensor."""
    timeout_seconds: float
    """Without a bucket arriving."""
    keeps_requests: bool = False
    """Whether completions may be running: they are paused, kept, and go on with the new weights."""
    kv_cache: Literal["recompute", "keep"] = "recompute"
    """What becomes of their KV cache."""
    payload: Mapping[str, object] = field(default_factory=dict)
    """Backend extras (CUDA IPC handles); empty for gloo and nccl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightReceipt:
    """A sampler's proof of what it loaded."""

    sampler_id: str
    version: int
    checksums: Mapping[str, str]
    """blake2b-64 hex of each tensor's bytes as received in the engine process, by name; empty unless asked for."""
    seconds: Mapping[str, float]
    """By phase: pause, start, update, finish, resume."""
