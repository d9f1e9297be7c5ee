"""Gloo transport: one broadcast from rank 0 per bucket, over a process group of its own.

Expects, bucket by bucket in manifest order, one flat uint8 tensor of the bucket's exact size; after the last
nothing more. Rank 0 is the learner and hosts the TCPStore; the prefix is "quorum-EPOCH".
"""

from __future__ import annotations

from datetime import timedelta

import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from quorum.deadline import run_within
from rollout.transfer.wire import JoinOrder, UpdateOrder

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class GlooTransport:
    """See `rollout.transfer.intake.Transport`. Works without vLLM."""

    def __init__(self, device: torch.device) -> None:
        del device  # buckets arrive in host memory
        self._group: ProcessGroupGloo | None = None
        self._num_ranks = 0

    def join(self, order: JoinOrder, rank: int) -> None:
        """See `rollout.transfer.intake.Transport`."""
        # Gloo's own deadline holds per connection: when a peer dies between its address and its connections, the
        # others would wait for several times as long.
        what = f"joining transfer epoch {order.epoch}"
        self._group = run_within(order.timeout_seconds, lambda: _connect(order, rank), what)
        self._num_ranks = order.world_size

    def receive(self, number: int, flat: torch.Tensor, order: UpdateOrder) -> None:
        """See `rollout.transfer.intake.Transport`."""
        assert self._group is not None
        deadline = timedelta(seconds=order.timeout_seconds)
        # The operation's own deadline ends it, so that it never outlives its group; one may pass for every child
        # that a worker in the middle of the tree sends on to.
        self._group.broadcast(flat, 0, timeout=deadline).wait(deadline * self._num_ranks)

    def leave(self) -> None:
        """See `rollout.transfer.intake.Transport`."""
        self._group = None


def _connect(order: JoinOrder, rank: int) -> ProcessGroupGloo:
    timeout = timedelta(seconds=order.timeout_seconds)
    store = TCPStore(order.host, order.port, None, is_master=False, timeout=timeout, wait_for_workers=False)
    options = ProcessGroupGloo._Options()
    options._timeout = timeout
    on_loopback = order.host in _LOOPBACK
    options._devices = [
        ProcessGroupGloo.create_device(hostname=order.host) if on_loopback else ProcessGroupGloo.create_default_device()
    ]
    return ProcessGroupGloo(PrefixStore(f"quorum-{order.epoch}", store), rank, order.world_size, options)
