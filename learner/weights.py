"""Published weights: immutable snapshots, cut into buckets that the ranks' host memory shares.

Each bucket is owned by one rank as raw bytes in the samplers' type. A snapshot is a copy: it can be sent again
at any time, also while the next update computes.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.lora import Weight, adapters_alone, name_of, plan_merges, published_weights
from learner.zero import ZeroEngine, shape_of
from quorum.errors import WeightSyncError
from quorum.types import TensorMeta, WeightManifest
from quorum.wire import bucket_bytes, checksum, layout, tensor_bytes

LOCK_SECONDS = 60.0


def plan_buckets(tensors: Sequence[TensorMeta], max_bytes: int) -> tuple[tuple[TensorMeta, ...], ...]:
    """Consecutive tensors in buckets of at most `max_bytes`; a larger tensor has a bucket of its own."""
    buckets: list[list[TensorMeta]] = []
    used = 0
    for meta in tensors:
        size = tensor_bytes(meta)
        if not buckets or used + size > max_bytes:
            buckets.append([])
            used = 0
        buckets[-1].append(meta)
        used += size
    return tuple(tuple(bucket) for bucket in buckets)


def raw_bytes(tensor: Tensor) -> Tensor:
    """[num_bytes] uint8 view of a contiguous tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@dataclass(frozen=True)
class Snapshot:
    """One published version as this rank holds it."""

    manifest: WeightManifest
    num_owners: int
    owned: dict[int, Tensor]
    """Flat uint8 host tensors of the buckets that this rank owns, by bucket index."""

    def owner_of(self, index: int) -> int:
        """Rank that holds bucket `index`."""
        return index % self.num_owners

    def checksums(self) -> dict[str, str]:
        """Checksum of every tensor owned here, by name."""
        return {
            meta.name: checksum(memoryview(flat[place].numpy()))
            for index, flat in self.owned.items()
            for meta, place in layout(self.manifest.buckets[index])
        }


class SnapshotStore:
    """This rank's snapshots: the newest, and those that a transfer is still reading."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshots: dict[int, Snapshot] = {}
        self._readers: dict[int, int] = {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise WeightSyncError(f"the snapshot store stayed locked for {LOCK_SECONDS:.0f} s")
        try:
            yield
        finally:
            self._lock.release()

    def add(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` as the newest; drop older ones that nobody reads."""
        with self._locked():
            self._snapshots[snapshot.manifest.version] = snapshot
            self._drop_unused(snapshot.manifest.version)

    def versions(self) -> list[int]:
        """Versions that can be sent, oldest first by publication."""
        with self._locked():
            return list(self._snapshots)

    @contextlib.contextmanager
    def reading(self, version: int) -> Iterator[Snapshot]:
        """Hold a version for the duration of a transfer.

        Raises:
            WeightSyncError: it was never published here, or has been dropped.
        """
        with self._locked():
            if version not in self._snapshots:
                held = ", ".join(map(str, self._snapshots)) or "none"
                raise WeightSyncError(f"policy version {version} is not held by the learner (held: {held})")
            snapshot = self._snapshots[version]
            self._readers[version] = self._readers.get(version, 0) + 1
        try:
            yield snapshot
        finally:
            with self._locked():
                self._readers[version] -= 1
                self._drop_unused(next(reversed(self._snapshots)))

    def _drop_unused(self, newest: int) -> None:
        for version in [v for v in self._snapshots if v != newest and not self._readers.get(v)]:
            del self._snapshots[version]


def take_snapshot(
    model: nn.Module,
    engine: ZeroEngine,
    *,
    version: int,
    incarnation: int,
    dtype: torch.dtype,
    max_bytes: int,
    rank: int,
    only_adapters: bool = False,
) -> Snapshot:
    """Copy the policy's weights out of the engine, bucket by bucket. A collective under ZeRO-3.

    Args:
        model: the Hugging Face model inside the engine, or one partitioned alike; its parameter names go into the
            manifest, tied weights once, adapters merged.
        dtype: the samplers' type. Buffers are not weights and stay out.
        max_bytes: size of a bucket.
        rank: this rank; it copies only the buckets it will own.
        only_adapters: leave the base weights out, which receivers read themselves. Adapters keep the type in which
            they are trained, because the sum is formed of that.
    """
    published = published_weights(model)
    sent = adapters_alone(published) if only_adapters else published
    weights = {weight.name: weight for weight in sent}
    metas = [
        TensorMeta(weight.name, name_of(weight.sources[0].dtype if only_adapters else dtype), weight.shape)
        for weight in sent
    ]
    manifest = WeightManifest(
        version=version,
        incarnation=incarnation,
        buckets=plan_buckets(metas, max_bytes),
        merges=plan_merges(published, dtype) if only_adapters else (),
    )
    snapshot = Snapshot(manifest=manifest, num_owners=engine.world_size, owned={})
    is_pinned = engine.device.type == "cuda"  # pages that the driver has to copy first are several times slower
    for index, bucket in enumerate(manifest.buckets):
        is_owner = snapshot.owner_of(index) == rank
        if is_owner:
            snapshot.owned[index] = torch.empty(bucket_bytes(bucket), dtype=torch.uint8, pin_memory=is_pinned)
        for part in _gather_together(bucket, weights, max_bytes):
            with engine.gathered([source for meta, _ in part for source in weights[meta.name].sources]):
                for meta, place in part if is_owner else ():
                    into = snapshot.owned[index][place].view(getattr(torch, meta.dtype))
                    into.copy_(weights[meta.name].read().reshape(-1))
    return snapshot


def _gather_together(
    bucket: Sequence[TensorMeta], weights: Mapping[str, Weight], max_bytes: int
) -> Iterator[list[tuple[TensorMeta, slice]]]:
    """Consecutive tensors whose sources, in their own type, are at most `max_bytes`; a larger one goes alone."""
    part: list[tuple[TensorMeta, slice]] = []
    used = 0
    for meta, place in layout(bucket):
        size = sum(math.prod(shape_of(source)) * source.element_size() for source in weights[meta.name].sources)
        if part and used + size > max_bytes:
            yield part
            part, used = [], 0
        part.append((meta, place))
        used += size
    yield part
