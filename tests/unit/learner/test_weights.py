"""Snapshots: bucket layout, bytes, and which versions are kept."""

import hashlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from learner.weights import Snapshot, SnapshotStore, plan_buckets, raw_bytes  # noqa: E402
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


def test_a_snapshots_checksums_are_of_each_tensors_raw_bytes():
    a, b = torch.arange(6, dtype=torch.bfloat16).view(2, 3), np.arange(4, dtype="<f4")
    flat = torch.cat([raw_bytes(a), raw_bytes(torch.from_numpy(b))])
    manifest = WeightManifest(version=1, incarnation=0, buckets=(tuple(METAS[:2]),))
    checksums = Snapshot(manifest=manifest, num_owners=1, owned={0: flat}).checksums()
    assert checksums == {
        "a": hashlib.blake2b(bytes(raw_bytes(a).numpy()), digest_size=8).hexdigest(),
        "b": hashlib.blake2b(b.tobytes(), digest_size=8).hexdigest(),
    }


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
