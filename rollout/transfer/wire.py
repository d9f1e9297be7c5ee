"""The receiving side of `quorum.wire`: orders in plain types, buckets that become tensors.

torch is imported where a tensor is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quorum.types import AdapterMerge, TensorMeta, WeightManifest
from quorum.wire import bucket_bytes, checksum, layout

if TYPE_CHECKING:
    import torch


@dataclass
class JoinOrder:
    """`quorum.types.TransferInit`, in the plain types that an engine passes between its processes."""

    epoch: int
    host: str
    port: int
    world_size: int
    rank_offset: int
    timeout_seconds: float


@dataclass
class UpdateOrder:
    """`quorum.types.WeightUpdate`, in the same plain types."""

    version: int
    epoch: int
    buckets: list[list[list[Any]]]
    """See `manifest_to_plain`."""
    verify: bool
    timeout_seconds: float
    payload: dict[str, Any] = field(default_factory=dict)
    merges: list[list[Any]] = field(default_factory=list)
    """See `merges_to_plain`."""


def largest_bucket_bytes(buckets: Sequence[Sequence[TensorMeta]]) -> int:
    return max((bucket_bytes(bucket) for bucket in buckets), default=0)


def split_bucket(flat: torch.Tensor, bucket: Sequence[TensorMeta]) -> list[tuple[str, torch.Tensor]]:
    """Cut one received bucket into tensors with storage of their own.

    The copies are needed: vLLM's layerwise reload keeps what it was given until a layer is complete, and the
    receive buffer is overwritten by the next bucket. They also give every tensor an aligned start.

    Args:
        flat: [bytes] uint8; may be longer than the bucket.
        bucket: its tensors in order.
    """
    import torch

    return [
        (meta.name, flat[place].clone().view(getattr(torch, meta.dtype)).view(meta.shape))
        for meta, place in layout(bucket)
    ]


def tensor_checksum(tensor: torch.Tensor) -> str:
    """Checksum of a tensor's raw bytes in C order; device memory is copied to the host first."""
    import torch

    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return checksum(memoryview(raw.numpy()))


def manifest_to_plain(manifest: WeightManifest) -> list[list[list[object]]]:
    """Buckets as lists of [name, dtype, shape], for the engine's message format, which knows no classes."""
    return [[[meta.name, meta.dtype, list(meta.shape)] for meta in bucket] for bucket in manifest.buckets]


def buckets_from_plain(plain: Sequence[Sequence[Sequence[object]]]) -> tuple[tuple[TensorMeta, ...], ...]:
    """The inverse of `manifest_to_plain`."""
    return tuple(
        tuple(TensorMeta(str(name), str(dtype), tuple(shape)) for name, dtype, shape in bucket)  # type: ignore[arg-type]
        for bucket in plain
    )


def merges_to_plain(manifest: WeightManifest) -> list[list[object]]:
    """A manifest's merges as lists of [[name, dtype, shape], base dtype, scale, whether transposed]."""
    return [
        [[merge.weight.name, merge.weight.dtype, list(merge.weight.shape)], *merge[1:]] for merge in manifest.merges
    ]


def merges_from_plain(plain: Sequence[Sequence[Any]]) -> tuple[AdapterMerge, ...]:
    """The inverse of `merges_to_plain`."""
    return tuple(AdapterMerge(TensorMeta(name, dtype, tuple(shape)), *rest) for (name, dtype, shape), *rest in plain)
