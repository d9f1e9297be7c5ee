"""Sending halves of the weight transports. Rank 0 sends; the other ranks hand it the buckets that they own.

The wire format is `quorum.types.TransferInit`'s. A send that fails never leaves a rank in a collective: every rank
hands over all its buckets, then all raise the same error.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from learner.exchange import BucketExchange
from learner.rendezvous import listen, store_over
from learner.weights import Snapshot
from quorum.deadline import poll, run_within
from quorum.errors import WeightSyncError
from quorum.types import TransferInit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Sender(Protocol):
    """One membership epoch's way to broadcast from rank 0."""

    def join(self, init: TransferInit) -> None:
        """Block until every receiver has joined, at most `init.timeout_seconds`."""

    def broadcast(self, flat: Tensor, seconds: float) -> None:
        """Send one bucket: [bytes] uint8 on the host. A receiver may take `seconds` for it."""

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
        """See `Sender`. Gloo's own deadline holds per connection, and would come several times as late."""
        options = dist.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=init.timeout_seconds)
        options._devices = [
            dist.ProcessGroupGloo.create_device(hostname=init.host)
            if init.host in LOOPBACK
            else dist.ProcessGroupGloo.create_default_device()
        ]
        self.store.set_timeout(options._timeout)
        store = dist.PrefixStore(f"quorum-{init.epoch}", self.store)
        self.group = run_within(
            init.timeout_seconds,
            lambda: dist.ProcessGroupGloo(store, 0, init.world_size, options),
            f"joining transfer epoch {init.epoch}",
        )

    def broadcast(self, flat: Tensor, seconds: float) -> None:
        """See `Sender`. The operation's own deadline ends it, so that it never outlives its group."""
        if self.group is None:
            raise RuntimeError("no receiver has joined this transfer epoch")
        deadline = timedelta(seconds=seconds)
        self.group.broadcast(flat, 0, timeout=deadline).wait(deadline * self.group.size())

    def close(self) -> None:
        """See `Sender`."""
        self.group = self.store = None
        if self.listener is not None:
            self.listener.close()


@dataclass
class NcclSender:
    """Broadcasts with vLLM's PyNcclCommunicator, as its own NCCL engine does."""

    device: torch.device
    communicator: Any = None

    def join(self, init: TransferInit) -> None:
        """See `Sender`."""
        self.communicator = run_within(
            init.timeout_seconds, lambda: self._connect(init), f"joining transfer epoch {init.epoch}"
        )

    def _connect(self, init: TransferInit) -> Any:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup

        group = StatelessProcessGroup.create(
            host=init.host,
            port=init.port,
            rank=0,
            world_size=init.world_size,
            store_timeout=max(1, int(init.timeout_seconds)),
        )
        return PyNcclCommunicator(group, device=self.device)

    def broadcast(self, flat: Tensor, seconds: float) -> None:
        """See `Sender`. NCCL has no deadline: the device is asked until ours has passed, then `close` aborts."""
        if self.communicator is None:
            raise RuntimeError("no receiver has joined this transfer epoch")
        on_device = flat.to(self.device)
        stream = torch.cuda.current_stream()
        self.communicator.broadcast(on_device, src=0, stream=stream)
        poll(stream.record_event().query, seconds, "the broadcast")

    def close(self) -> None:
        """See `Sender`. `destroy` aborts what is still under way."""
        communicator, self.communicator = self.communicator, None
        if hasattr(communicator, "destroy"):
            communicator.destroy()


@dataclass
class IpcHandles:
    """Buckets of one version on this rank's GPU, which a sampler shares; alive until the next call or `clear`."""

    staged: list[Tensor] = field(default_factory=list)

    def stage(self, flats: Iterable[Tensor], device: torch.device) -> None:
        """Copy buckets to the device, one at a time."""
        self.clear()
        self.staged = [flat.to(device, copy=True) for flat in flats]

    def handles(self) -> list[dict[str, tuple[Any, ...]]]:
        """Per bucket {GPU uuid: arguments of rebuild_cuda_tensor}, as the samplers' payload wants them."""
        from torch.multiprocessing.reductions import reduce_tensor

        torch.cuda.synchronize()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        return [{uuid: reduce_tensor(flat)[1]} for flat in self.staged]

    def clear(self) -> None:
        """Free what was staged; receivers must have returned their receipts."""
        self.staged = []
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()


def merge_handles(ranks: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Per bucket the handles of all ranks by GPU, from every rank's handles per bucket."""
    return [{uuid: handle for part in parts for uuid, handle in part.items()} for parts in zip(*ranks, strict=True)]


def open_sender(
    backend: str, host: str, port: int, world_size: int, device: torch.device, timeout: timedelta
) -> tuple[Any, int]:
    """Prepare to be joined at (host, port), any free port for 0. Returns before anyone joins.

    Raises:
        WeightSyncError: `backend` joins no group, or the port is taken.
    """
    try:
        listener, port = listen(host, port)
    except OSError as error:
        raise WeightSyncError(
            f"the learner cannot listen for samplers on {host}:{port}: {error}; set sync.port to 0 for any free one"
        ) from error
    if backend == "gloo":
        sender = GlooSender(listener)
        sender.serve(host, world_size, timeout)
        return sender, port
    listener.close()
    if backend == "nccl":
        return NcclSender(device), port
    raise WeightSyncError(f"weight transfer backend {backend!r} joins no group; expected gloo or nccl")


def send_snapshot(exchange: BucketExchange, snapshot: Snapshot, sender: Sender | None, timeout_seconds: float) -> None:
    """Broadcast a snapshot to the receivers of one epoch. A call of every rank; only rank 0 has a `sender`.

    While rank 0 broadcasts a bucket, the next ones that others own are on their way to it.

    Raises:
        WeightSyncError: on every rank, when the broadcast failed on rank 0, or when a rank died or hangs.
    """
    if exchange.rank:
        exchange.hand_over(snapshot, timeout_seconds)
        exchange.agree("")
        return
    assert sender is not None
    error, num_buckets = "", len(snapshot.manifest.buckets)
    try:
        for index, flat in enumerate(exchange.gather(snapshot, timeout_seconds)):
            if error:
                continue  # the owners are relieved of what they still hold out
            try:
                sender.broadcast(flat, timeout_seconds)
            except (RuntimeError, OSError) as failure:
                error = f"bucket {index + 1} of {num_buckets} was not sent: {failure}"
                close_quietly(sender)
    except WeightSyncError:
        close_quietly(sender)  # receivers must not wait for a bucket that will never be whole
        raise
    exchange.agree(error)


def close_quietly(sender: Sender) -> None:
    """Close a sender that has failed; what its group says to that adds nothing."""
    with contextlib.suppress(RuntimeError, OSError):
        sender.close()
