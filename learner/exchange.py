"""How the ranks hand each other the buckets of a snapshot: a Gloo group apart from the training collectives."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from learner.weights import Snapshot
from quorum.errors import WeightSyncError
from quorum.wire import bucket_bytes

NUM_STAGING = 2
"""Buckets of other ranks that rank 0 holds: one is being sent while the other is being received."""
_TOKEN = torch.zeros(1, dtype=torch.uint8)


class BucketExchange:
    """Every method is a call of all ranks, in the same order.

    An exchange that has failed stays broken: a rank died or hangs, and all of them have to be started again.
    """

    def __init__(self, rank: int, world_size: int, timeout: timedelta) -> None:
        """Create the group; a collective of all ranks.

        Args:
            rank: this one.
            world_size: number of ranks.
            timeout: for all ranks to come to a call.
        """
        self.rank, self.world_size = rank, world_size
        self._staging = torch.empty((NUM_STAGING, 0), dtype=torch.uint8)
        self.group = dist.new_group(backend="gloo", timeout=timeout) if world_size > 1 else None

    def _patience(self, seconds: float) -> float:
        """How long a rank may have to wait for rank 0, which may take `seconds` to send each bucket before its next."""
        return seconds * (self.world_size + NUM_STAGING + 1)

    def agree(self, error: str) -> None:
        """Raise on every rank what went wrong on any.

        Raises:
            WeightSyncError: some rank passed a non-empty `error`; names the ranks.
        """
        errors = self.collect(error)
        found = [f"rank {rank}: {text}" for rank, text in enumerate(errors) if text]
        if found:
            raise WeightSyncError("; ".join(found))

    def collect(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _naming("agree with the other learner ranks"):
            dist.all_gather_object(values, value, group=self.group)
        return values

    def gather(self, snapshot: Snapshot, seconds: float) -> Iterator[Tensor]:
        """Rank 0: all buckets of a snapshot in order, each valid until the next is asked for.

        Those of other ranks are received ahead, beside whatever is done with the one at hand.

        Args:
            snapshot: as rank 0 holds it.
            seconds: for a bucket to come.

        Raises:
            WeightSyncError: a rank did not hand one over.
        """
        buckets, me = snapshot.manifest.buckets, self.rank
        sizes = {i: bucket_bytes(buckets[i]) for i in range(len(buckets)) if snapshot.owner_of(i) != me}
        self._reserve(max(sizes.values(), default=0))
        ahead, under_way = iter(sizes), deque[tuple[Tensor, Tensor, Any]]()

        def receive_into(staging: Tensor) -> None:
            index = next(ahead, None)
            if index is not None:
                flat = staging[: sizes[index]]
                work = dist.irecv(flat, src=snapshot.owner_of(index), group=self.group, tag=index)
                under_way.append((flat, staging, work))

        with _naming("receive the first bucket of another rank"):
            for staging in self._staging:
                receive_into(staging)
        for index in range(len(buckets)):
            if index not in sizes:
                yield snapshot.owned[index]
                continue
            flat, staging, work = under_way.popleft()
            owner = snapshot.owner_of(index)
            with _naming(f"receive bucket {index + 1} of {len(buckets)} from learner rank {owner}"):
                _finish(work, seconds)
            yield flat
            with _naming(f"receive a bucket of learner rank {owner}"):
                receive_into(staging)
        for rank in range(1, self.world_size):
            with _naming(f"tell learner rank {rank} that all buckets are here"):
                _finish(dist.isend(_TOKEN, dst=rank, group=self.group, tag=len(buckets)), seconds)

    def hand_over(self, snapshot: Snapshot, seconds: float) -> None:
        """Other ranks: give rank 0 every bucket owned here, in order; returns when rank 0 has those of all.

        Raises:
            WeightSyncError: rank 0 did not take one.
        """
        num_buckets, patience = len(snapshot.manifest.buckets), self._patience(seconds)
        for index, flat in snapshot.owned.items():
            with _naming(f"hand bucket {index + 1} of {num_buckets} to learner rank 0"):
                _finish(dist.isend(flat, dst=0, group=self.group, tag=index), patience)
        with _naming("hear that learner rank 0 has all buckets"):
            _finish(dist.irecv(torch.empty_like(_TOKEN), src=0, group=self.group, tag=num_buckets), patience)

    def to_all(self, snapshot: Snapshot) -> Iterator[Tensor]:
        """All buckets of a snapshot in order, on every rank, each valid until the next is asked for.

        Raises:
            WeightSyncError: a rank died or hangs.
        """
        sizes = [bucket_bytes(bucket) for bucket in snapshot.manifest.buckets]
        self._reserve(max((size for i, size in enumerate(sizes) if i not in snapshot.owned), default=0))
        for index, size in enumerate(sizes):
            flat = snapshot.owned.get(index)
            flat = self._staging[0][:size] if flat is None else flat
            if self.group is not None:
                owner = snapshot.owner_of(index)
                with _naming(f"share bucket {index + 1} of {len(sizes)} of learner rank {owner}"):
                    dist.broadcast(flat, src=owner, group=self.group)
            yield flat

    def _reserve(self, num_bytes: int) -> None:
        """Staging buffers of at least that size; they are kept, for touching new memory costs as much as a copy."""
        if self._staging.shape[1] < num_bytes:
            self._staging = torch.empty((NUM_STAGING, num_bytes), dtype=torch.uint8)


def _finish(work: Any, seconds: float) -> None:
    work.wait(timedelta(seconds=seconds))


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Translate what torch.distributed raises."""
    try:
        yield
    except RuntimeError as error:
        raise WeightSyncError(f"could not {what}, which died or hangs: {error}") from error
