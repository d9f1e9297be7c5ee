"""Snapshots: bucket layout, bytes, and which versions are kept."""

import hashlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from learner.weights import Snapshot, SnapshotStore, checksum, plan_buckets, raw_bytes, split_bucket  # noqa: E402
from quorum.errors import WeightSyncError  # noqa: E402
from quorum.types import TensorMeta, WeightManifest  # noqa: E402

METAS = [TensorMeta("a", "bfloat16", (2, 3)), TensorMeta("b", "float32", (4,)), TensorMeta("c", "bfloat16", (100,))]


def snapshot(version):
    return Snapshot(manifest=WeightManifest(version=version, incarnation=0, buckets=()), num_owners=1, owned={})


def test_buckets_hold_consecutive_tensors_up_to_the_limit_and_a_large_one_alone():
    names = [[meta.name for meta in bucket] for bucket in plan_buckets(METAS, 28)]
    assert names == [["a", "b"], ["c"]]
    assert [[meta.name for meta in bucket] for bucket in plan_buckets(METAS, 1)] == [["a"], ["b"], ["c"]]
    assert plan_buckets([], 1) == ()


def test_a_bucket_is_the_concatenation_of_raw_bytes():
    a, b = torch.arange(6, dtype=torch.bfloat16).view(2, 3), torch.arange(4, dtype=torch.float32)
    flat = torch.cat([raw_bytes(a), raw_bytes(b)])
    parts = dict((meta.name, data) for meta, data in split_bucket(METAS[:2], flat))
    assert torch.equal(parts["a"].view(torch.bfloat16).view(2, 3), a)
    assert bytes(parts["b"].numpy()) == np.arange(4, dtype="<f4").tobytes()


def test_a_checksum_is_blake2b_64_of_the_raw_bytes():
    values = np.arange(5, dtype="<f4")
    assert checksum(raw_bytes(torch.from_numpy(values))) == hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


def test_the_newest_version_and_those_being_read_are_kept():
    store = SnapshotStore()
    store.add(snapshot(1))
    with store.reading(1):
        store.add(snapshot(2))
        store.add(snapshot(3))
        assert store.versions() == [1, 3]
    assert store.versions() == [3]


def test_a_version_that_is_not_held_is_named():
    store = SnapshotStore()
    store.add(snapshot(4))
    with pytest.raises(WeightSyncError, match=r"version 2 is not held by the learner \(held: 4\)"), store.reading(2):
        pass
