"""The bytes of a weight transfer: bucket sizes, splitting a bucket into tensors, checksums.

A bucket is one flat uint8 tensor: its tensors' raw little-endian bytes in C order, concatenated in manifest
order, without padding. torch is imported where a tensor is touched.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quorum.types import TensorMeta, WeightManifest

if TYPE_CHECKING:
    import torch

_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "uint8": 1, "int8": 1}


def tensor_bytes(meta: TensorMeta) -> int:
    """Size of one tensor on the wire.

    Raises:
        ValueError: a dtype that no transport sends.
    """
    if meta.dtype not in _ITEM_BYTES:
        raise ValueError(f"tensor {meta.name} has dtype {meta.dtype!r}, expected one of {', '.join(_ITEM_BYTES)}")
    return math.prod(meta.shape) * _ITEM_BYTES[meta.dtype]


def bucket_bytes(bucket: Sequence[TensorMeta]) -> int:
    return sum(tensor_bytes(meta) for meta in bucket)


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

    tensors, start = [], 0
    for meta in bucket:
        end = start + tensor_bytes(meta)
        tensors.append((meta.name, flat[start:end].clone().view(getattr(torch, meta.dtype)).view(meta.shape)))
        start = end
    return tensors


def checksum(tensor: torch.Tensor) -> str:
    """blake2b-64 (16 hex digits) of a tensor's raw bytes in C order; device memory is copied to the host first."""
    import torch

    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return hashlib.blake2b(memoryview(raw.numpy()), digest_size=8).hexdigest()


def manifest_to_plain(manifest: WeightManifest) -> list[list[list[object]]]:
    """Buckets as lists of [name, dtype, shape], for the engine's message format, which knows no classes."""
    return [[[meta.name, meta.dtype, list(meta.shape)] for meta in bucket] for bucket in manifest.buckets]


def buckets_from_plain(plain: Sequence[Sequence[Sequence[object]]]) -> tuple[tuple[TensorMeta, ...], ...]:
    """The inverse of `manifest_to_plain`."""
    return tuple(
        tuple(TensorMeta(str(name), str(dtype), tuple(shape)) for name, dtype, shape in bucket)  # type: ignore[arg-type]
        for bucket in plain
    )
