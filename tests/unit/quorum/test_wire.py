"""The wire format: sizes, layout, checksums."""

import hashlib

import pytest

from quorum.types import TensorMeta
from quorum.wire import bucket_bytes, checksum, layout, tensor_bytes

BUCKET = (
    TensorMeta("a", "bfloat16", (3,)),
    TensorMeta("b", "float32", (2, 2)),
    TensorMeta("scalar", "float32", ()),
    TensorMeta("empty", "bfloat16", (0, 4)),
)


def test_a_bucket_is_its_tensors_without_padding() -> None:
    assert [tensor_bytes(meta) for meta in BUCKET] == [6, 16, 4, 0]
    assert bucket_bytes(BUCKET) == 26
    assert [place for _, place in layout(BUCKET)] == [slice(0, 6), slice(6, 22), slice(22, 26), slice(26, 26)]


def test_a_dtype_that_nobody_sends_is_named() -> None:
    with pytest.raises(ValueError, match="tensor x has dtype 'complex64'"):
        tensor_bytes(TensorMeta("x", "complex64", (1,)))


def test_a_checksum_is_blake2b_64() -> None:
    assert checksum(memoryview(b"abc")) == hashlib.blake2b(b"abc", digest_size=8).hexdigest()
