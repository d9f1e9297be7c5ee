"""Sending halves of the weight transports. Rank 0 sends; the other ranks hand it the buckets that they own.

The wire format is `quorum.types.TransferInit`'s. A send that fails never leaves a rank in a collective: every
rank finishes handing over its buckets, then all raise the same error.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from learner.rendezvous import listen, store_over
from learner.weights import Snapshot
from quorum.errors import WeightSyncError
from quorum.types import TransferInit
from quorum.wire import bucket_bytes

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Sender(Protocol):
    """One membership epoch's way to broadcast from rank 0."""

    def join(self, init: TransferInit) -> None:
        """Block until every receiver has joined, at most `init.timeout_seconds`."""

    def broadcast(self, flat: Tensor, seconds: float) -> None:
        """Send one bucket: [bytes] uint8 on the host."""

    def close(self) -> None:
        """Leave the group; receivers still waiting get an error."""


@dataclass
class GlooSender:
    """Broadcasts over a ProcessGroupGloo whose store listens on the learner's side."""

    listener: socket.socket | None
    store: Any = None
    group: Any = None

    def serve(self, host: str, world_size: int, timeout: timedelta) -> None:
        """Start the store, so that receivers may connect before `join`."""
        assert self.listener is not None, "the store was started before"
        self.store = store_over(self.listener, host, world_size, timeout)
        self.listener = None

    def join(self, init: TransferInit) -> None:
        options = dist.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=init.timeout_seconds)
        options._devices = [
            dist.ProcessGroupGloo.create_device(hostname=init.host)
            if init.host in LOOPBACK
            else dist.ProcessGroupGloo.create_default_device()
        ]
        store = dist.PrefixStore(f"quorum-{init.epoch}", self.store)
        self.group = dist.ProcessGroupGloo(store, 0, init.world_size, options)

    def broadcast(self, flat: Tensor, seconds: float) -> None:
        self.group.broadcast(flat, 0).wait(timedelta(seconds=seconds))

    def close(self) -> None:
        self.group = self.store = None
        if self.listener is not None:
            self.listener.close()


@dataclass
class NcclSender:
    """Broadcasts with vLLM's PyNcclCommunicator, as its own NCCL engine does."""

    device: torch.device
    communicator: Any = None

    def join(self, init: TransferInit) -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup

        group = StatelessProcessGroup.create(
            host=init.host,
            port=init.port,
            rank=0,
            world_size=init.world_size,
            store_timeout=max(1, int(init.timeout_seconds)),
        )
        self.communicator = PyNcclCommunicator(group, device=self.device)

    def broadcast(self, flat: Tensor, seconds: float) -> None:
        del seconds  # NCCL has no deadline of its own; the caller of `send` ends the rank
        on_device = flat.to(self.device)
        self.communicator.broadcast(on_device, src=0, stream=torch.cuda.current_stream())
        torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        communicator, self.communicator = self.communicator, None
        if hasattr(communicator, "destroy"):
            communicator.destroy()


@dataclass
class IpcHandles:
    """Buckets of one version staged on a GPU that a sampler shares; alive until the next call or `clear`."""

    staged: list[Tensor] = field(default_factory=list)

    def stage(self, flats: list[Tensor], device: torch.device) -> list[dict[str, tuple[Any, ...]]]:
        """Per bucket {GPU uuid: arguments of rebuild_cuda_tensor}, as the samplers' payload wants them."""
        from torch.multiprocessing.reductions import reduce_tensor

        self.clear()
        self.staged = [flat.to(device) for flat in flats]
        torch.cuda.synchronize(device)
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return [{uuid: reduce_tensor(flat)[1]} for flat in self.staged]

    def clear(self) -> None:
        """Free what was staged; receivers must have returned their receipts."""
        self.staged = []
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()


def open_sender(
    backend: str, host: str, port: int, world_size: int, device: torch.device, timeout: timedelta
) -> tuple[Any, int]:
    """Prepare to be joined at (host, port), any free port for 0. Returns before anyone joins.

    Raises:
        WeightSyncError: `backend` joins no group.
    """
    listener, port = listen(host, port)
    if backend == "gloo":
        sender = GlooSender(listener)
        sender.serve(host, world_size, timeout)
        return sender, port
    listener.close()
    if backend == "nccl":
        return NcclSender(device), port
    raise WeightSyncError(f"weight transfer backend {backend!r} joins no group; expected gloo or nccl")


class BucketExchange:
    """Hands buckets from their owners to rank 0, over a Gloo group apart from the training collectives."""

    def __init__(self, rank: int, world_size: int, timeout: timedelta) -> None:
        """Create the group; a collective of all ranks."""
        self.rank, self.world_size = rank, world_size
        self.group = dist.new_group(backend="gloo", timeout=timeout) if world_size > 1 else None

    def agree(self, error: str, timeout_seconds: float) -> None:
        """Raise on every rank what went wrong on any.

        Raises:
            WeightSyncError: some rank passed a non-empty `error`; names the ranks.
        """
        errors = self.gather(error, timeout_seconds)
        found = [f"rank {rank}: {text}" for rank, text in enumerate(errors) if text]
        if found:
            raise WeightSyncError("; ".join(found))

    def gather(self, value: Any, timeout_seconds: float) -> list[Any]:
        """Every rank's `value`, on every rank."""
        del timeout_seconds  # the group's own timeout bounds it
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def to_rank_zero(self, snapshot: Snapshot, index: int) -> Tensor | None:
        """Bucket `index` on rank 0; None elsewhere. A call of every rank, in bucket order."""
        owner = snapshot.owner_of(index)
        if owner == self.rank == 0:
            return snapshot.owned[index]
        if self.rank == 0:
            flat = torch.empty(bucket_bytes(snapshot.manifest.buckets[index]), dtype=torch.uint8)
            dist.recv(flat, src=owner, group=self.group, tag=index)
            return flat
        if owner == self.rank:
            dist.send(snapshot.owned[index], dst=0, group=self.group, tag=index)
        return None


def send_snapshot(exchange: BucketExchange, snapshot: Snapshot, sender: Sender | None, timeout_seconds: float) -> None:
    """Broadcast a snapshot to the receivers of one epoch. A call of every rank; only rank 0 has a `sender`.

    Raises:
        WeightSyncError: on every rank, when the broadcast failed on rank 0.
    """
    error = ""
    for index in range(len(snapshot.manifest.buckets)):
        flat = exchange.to_rank_zero(snapshot, index)
        if flat is None or error:
            continue
        try:
            assert sender is not None
            sender.broadcast(flat, timeout_seconds)
        except (RuntimeError, OSError, AssertionError) as failure:
            error = f"bucket {index} of {len(snapshot.manifest.buckets)} was not sent: {failure}"
            with contextlib.suppress(RuntimeError, OSError):
                sender.close()
    exchange.agree(error, timeout_seconds)
