"""The bytes of a weight transfer, as learner and samplers both see them: sizes, layout of a bucket, checksums.

A bucket is its tensors' raw little-endian bytes in C order, concatenated in manifest order, without padding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from quorum.types import TensorMeta

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
    """Size of a bucket on the wire."""
    return sum(tensor_bytes(meta) for meta in bucket)


def layout(bucket: Sequence[TensorMeta]) -> Iterator[tuple[TensorMeta, slice]]:
    """Where each tensor's bytes stand in its bucket."""
    start = 0
    for meta in bucket:
        end = start + tensor_bytes(meta)
        yield meta, slice(start, end)
        start = end


def checksum(data: memoryview) -> str:
    """blake2b-64 of a tensor's bytes, as 16 hex digits."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def adapter_names(weight: str) -> tuple[str, str]:
    """Names under which the A and B matrices of a weight's adapter travel alone."""
    return f"{weight}.lora_A", f"{weight}.lora_B"


def merge_adapter(base: Any, a: Any, b: Any, scale: float, *, is_transposed: bool) -> Any:
    """W + scale * B A in float32, the only way in which learner and receivers form it: their bits are the same.

    Args:
        base: [outputs, inputs] tensor; [inputs, outputs] if transposed.
        a: [rank, inputs]
        b: [outputs, rank]
    """
    base, a, b = base.float(), a.float(), b.float()
    return base.addmm(*((a.T, b.T) if is_transposed else (b, a)), alpha=scale)
