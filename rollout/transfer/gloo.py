"""Gloo receiver: one broadcast from rank 0 per bucket, over a process group of its own.

Expects, bucket by bucket in manifest order, one flat uint8 tensor of the bucket's exact size; after the last
nothing more. Rank 0 is the learner and hosts the TCPStore; the prefix is "quorum-EPOCH".
"""

from __future__ import annotations

from datetime import timedelta

import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from rollout.transfer.receiver import BucketReceiver, JoinInfo, UpdateInfo

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class GlooReceiver(BucketReceiver):
    """Registered with vLLM as "gloo"."""

    _group: ProcessGroupGloo | None = None

    def _join(self, info: JoinInfo, rank: int) -> None:
        timeout = timedelta(seconds=info.timeout_seconds)
        store = TCPStore(info.host, info.port, info.world_size, is_master=False, timeout=timeout)
        options = ProcessGroupGloo._Options()
        options._timeout = timeout
        on_loopback = info.host in _LOOPBACK
        options._devices = [
            ProcessGroupGloo.create_device(hostname=info.host)
            if on_loopback
            else ProcessGroupGloo.create_default_device()
        ]
        self._group = ProcessGroupGloo(PrefixStore(f"quorum-{info.epoch}", store), rank, info.world_size, options)

    def _receive_bucket(self, number: int, num_bytes: int, info: UpdateInfo) -> torch.Tensor:
        assert self._group is not None
        flat = self._buffer[:num_bytes]
        self._group.broadcast(flat, 0).wait(timedelta(seconds=info.timeout_seconds))
        return flat

    def _leave(self) -> None:
        self._group = None
