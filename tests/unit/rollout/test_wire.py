import hashlib

import pytest

from quorum.types import TensorMeta, WeightManifest
from rollout.transfer.wire import (
    buckets_from_plain,
    largest_bucket_bytes,
    manifest_to_plain,
    split_bucket,
    tensor_checksum,
)

BUCKET = (
    TensorMeta("a", "bfloat16", (3,)),
    TensorMeta("b", "float32", (2, 2)),
    TensorMeta("scalar", "float32", ()),
    TensorMeta("empty", "bfloat16", (0, 4)),
)


def test_the_receive_buffer_holds_the_largest_bucket() -> None:
    assert largest_bucket_bytes([BUCKET[:1], BUCKET, ()]) == 26
    assert largest_bucket_bytes([]) == 0


def test_a_manifest_survives_the_engines_plain_messages() -> None:
    manifest = WeightManifest(version=1, incarnation=0, buckets=(BUCKET, BUCKET[:1]))
    assert buckets_from_plain(manifest_to_plain(manifest)) == manifest.buckets


def test_a_bucket_is_split_into_tensors_that_outlive_the_buffer() -> None:
    torch = pytest.importorskip("torch")
    a = torch.tensor([1.0, -2.0, 0.5], dtype=torch.bfloat16)
    b = torch.arange(4, dtype=torch.float32).view(2, 2)
    scalar = torch.tensor(7.5)
    sent = torch.cat([t.reshape(-1).view(torch.uint8) for t in (a, b, scalar)])
    buffer = torch.zeros(64, dtype=torch.uint8)
    buffer[:26] = sent
    tensors = dict(split_bucket(buffer, BUCKET))
    buffer.zero_()
    assert list(tensors) == ["a", "b", "scalar", "empty"]
    assert torch.equal(tensors["a"], a) and torch.equal(tensors["b"], b) and torch.equal(tensors["scalar"], scalar)
    assert tensors["empty"].shape == (0, 4)


def test_a_checksum_is_blake2b_64_of_the_bytes_in_c_order() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
    assert tensor_checksum(tensor) == hashlib.blake2b(tensor.numpy().tobytes(), digest_size=8).hexdigest()
    assert (
        tensor_checksum(tensor.t())
        == hashlib.blake2b(tensor.t().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
    )
    assert tensor_checksum(tensor.bfloat16()) != tensor_checksum(tensor)
