"""One worker's end of a transfer, without an engine: join an epoch, receive its buckets, hand the tensors on.

Whatever goes wrong ends the worker's membership at once, so that nobody waits for it: Gloo broadcasts along a tree,
and a worker that has dropped its group fails those behind it where one that lingers would let them wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from quorum.types import TensorMeta
from quorum.wire import bucket_bytes
from rollout.transfer.wire import (
    JoinOrder,
    UpdateOrder,
    buckets_from_plain,
    largest_bucket_bytes,
    split_bucket,
    tensor_checksum,
)

Load = Callable[[list[tuple[str, Tensor]]], object]
"""Takes a bucket's tensors by name; they have storage of their own."""


class Transport(Protocol):
    """A way for buckets to arrive. Built with the device that they are wanted on."""

    def join(self, order: JoinOrder, rank: int) -> None:
        """Join the receiver group as `rank`; blocks at most `order.timeout_seconds`."""

    def receive(self, number: int, flat: Tensor, order: UpdateOrder) -> None:
        """Fill `flat`, [bytes] uint8, with bucket `number`; blocks at most about `order.timeout_seconds`."""

    def leave(self) -> None:
        """Drop the group, if there is one; peers that wait for this worker get an error."""


class BucketIntake:
    """Receives a manifest's buckets into one buffer, as large as the largest, which all updates share."""

    def __init__(self, transport: Transport, device: torch.device) -> None:
        self._transport, self._device = transport, device
        self._buffer = torch.empty(0, dtype=torch.uint8, device=device)
        self._epoch: int | None = None

    def join(self, order: JoinOrder, rank: int) -> None:
        """Leave the epoch before and join this one as `rank`.

        Raises:
            RuntimeError, OSError: it was not complete in time; this worker is in no epoch then.
        """
        self.leave()
        self._transport.join(order, rank)
        self._epoch = order.epoch

    def leave(self) -> None:
        """Be in no epoch."""
        self._epoch = None
        self._transport.leave()

    def receive(self, order: UpdateOrder, load: Load) -> dict[str, Any]:
        """Receive every bucket and hand it to `load`.

        Returns:
            `version`, `checksums` by name of the bytes received (empty unless `order.verify`), and `seconds` by part.

        Raises:
            RuntimeError: names the bucket; this worker has left its epoch then.
        """
        if order.epoch != self._epoch:
            raise RuntimeError(f"update for transfer epoch {order.epoch}, this worker is in {self._epoch or 'none'}")
        buckets = buckets_from_plain(order.buckets)
        self._reserve(largest_bucket_bytes(buckets))
        checksums: dict[str, str] = {}
        seconds = {"receive": 0.0, "verify": 0.0, "load": 0.0}
        try:
            for number, bucket in enumerate(buckets):
                marks = [time.perf_counter()]
                flat = self._receive(number, buckets, order)
                marks.append(time.perf_counter())
                tensors = split_bucket(flat, bucket)
                if order.verify:
                    checksums.update((name, tensor_checksum(tensor)) for name, tensor in tensors)
                marks.append(time.perf_counter())
                load(tensors)
                marks.append(time.perf_counter())
                for phase, begin, end in zip(seconds, marks, marks[1:], strict=False):
                    seconds[phase] += end - begin
        except BaseException:
            self.leave()
            raise
        return {"version": order.version, "checksums": checksums, "seconds": seconds}

    def _receive(self, number: int, buckets: Sequence[Sequence[TensorMeta]], order: UpdateOrder) -> Tensor:
        size = bucket_bytes(buckets[number])
        flat = self._buffer[:size]
        try:
            self._transport.receive(number, flat, order)
        except Exception as exc:
            raise RuntimeError(
                f"bucket {number + 1} of {len(buckets)} ({size:,} bytes, first tensor {buckets[number][0].name}) did "
                f"not arrive within {order.timeout_seconds:g} s: {exc}"
            ) from exc
        return flat

    def _reserve(self, num_bytes: int) -> None:
        if self._buffer.numel() < num_bytes:
            self._buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
