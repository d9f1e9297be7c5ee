"""The part of a rank that hands weights to samplers: snapshots, membership epochs, sending.

Runs beside training: it reads snapshots only, and uses a process group of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from quorum.errors import WeightSyncError
from quorum.types import TransferInit, WeightManifest

if TYPE_CHECKING:
    from learner.exchange import BucketExchange
    from learner.models import LearnerModels
    from learner.rank import RankSettings
    from learner.transfer import IpcHandles
    from learner.weights import SnapshotStore
    from learner.zero import ZeroEngine

LOOPBACK = "127.0.0.1"
WeightsOf = Literal["policy", "average"]
"""Whose weights are published: the policy's, or its moving average's."""


class TransferLane:
    """Base of `learner.rank.Rank`, which supplies the engine and the settings."""

    settings: RankSettings
    _engine: ZeroEngine
    _model: Any
    _exchange: BucketExchange
    _snapshots: Mapping[WeightsOf, SnapshotStore]
    _models: LearnerModels
    _ipc: IpcHandles
    _senders: dict[int, Any]

    def host(self) -> str:
        """Address that this rank binds to: loopback on the local machine, else the node's."""
        if self.settings.on_loopback:
            return LOOPBACK
        import ray

        return str(ray.util.get_node_ip_address())

    def _open_lane(self) -> None:
        """Prepare for transfers, once the process group is up. A collective."""
        from learner.exchange import BucketExchange

        timeout = timedelta(seconds=self.settings.config.deadlines.sync_seconds)
        self._exchange = BucketExchange(self.settings.rank, self.settings.world_size, timeout)
        self._empty_lane()

    def _empty_lane(self) -> None:
        """Hold no version and be in no epoch; the ranks' own group stays."""
        from learner.transfer import IpcHandles
        from learner.weights import SnapshotStore

        for epoch in list(self._senders):
            self.close_transfer(epoch)
        self._snapshots = {"policy": SnapshotStore(), "average": SnapshotStore()}
        self._ipc = IpcHandles()

    def publish(self, version: int, incarnation: int, of: WeightsOf = "policy") -> WeightManifest:
        """Copy the current weights of the policy, or of its average, into a snapshot that can be sent from now on. A
        collective. With `sync.lora: adapters` it holds the adapters alone."""
        import torch

        from learner.weights import take_snapshot

        config = self.settings.config
        snapshot = take_snapshot(
            self._models.model if of == "policy" else self._models.average_model,
            self._engine,
            version=version,
            incarnation=incarnation,
            dtype=getattr(torch, config.rollout.dtype),
            max_bytes=config.sync.bucket_mib << 20,
            rank=self.settings.rank,
            only_adapters=config.sync.lora == "adapters",
        )
        self._snapshots[of].add(snapshot)
        return snapshot.manifest

    def checksums(self, version: int, of: WeightsOf = "policy") -> dict[str, str]:
        """Transfer lane: checksums of the tensors of `version` that this rank owns."""
        with self._snapshots[of].reading(version) as snapshot:
            return snapshot.checksums()

    def open_transfer(self, backend: str, epoch: int, world_size: int, port: int) -> tuple[str, int]:
        """Transfer lane, rank 0: get ready to be joined; returns the address before anyone joins. Port 0: any."""
        from learner.transfer import open_sender

        self.close_transfer(epoch)
        host, timeout = self.host(), timedelta(seconds=self.settings.config.deadlines.sync_seconds)
        sender, port = open_sender(backend, host, port, world_size, self._engine.device, timeout)
        self._senders[epoch] = sender
        return host, port

    def join_transfer(self, init: TransferInit) -> None:
        """Join lane, rank 0: block until all receivers of the epoch have joined.

        Raises:
            WeightSyncError: they did not, within `init.timeout_seconds`, or the epoch was closed meanwhile.
        """
        sender = self._senders.get(init.epoch)
        if sender is None:
            raise WeightSyncError(f"transfer epoch {init.epoch} was not opened, or has been closed")
        try:
            sender.join(init)
        except (RuntimeError, OSError) as error:
            self.close_transfer(init.epoch)
            expected = init.world_size - 1
            raise WeightSyncError(
                f"not all {expected} receivers joined transfer epoch {init.epoch} within {init.timeout_seconds:.0f} s: "
                f"{error}"
            ) from error
        if self._senders.get(init.epoch) is not sender:
            sender.close()
            raise WeightSyncError(f"transfer epoch {init.epoch} was closed while receivers joined it")

    def close_transfer(self, epoch: int) -> None:
        """Transfer lane: leave an epoch's group, if there is one."""
        sender = self._senders.pop(epoch, None)
        if sender is not None:
            sender.close()

    def send(self, version: int, epoch: int, timeout_seconds: float, of: WeightsOf = "policy") -> None:
        """Transfer lane: broadcast a published version to an epoch's receivers. A call of every rank.

        Raises:
            WeightSyncError: on every rank, when it could not be sent.
        """
        from learner.transfer import send_snapshot

        sender = self._senders.get(epoch)
        error = "" if sender or self.settings.rank else f"transfer epoch {epoch} is not open"
        snapshots = self._snapshots[of]
        if version not in snapshots.versions():
            error = f"{of} version {version} is not held (held: {snapshots.versions()})"
        self._exchange.agree(error)
        with snapshots.reading(version) as snapshot:
            send_snapshot(self._exchange, snapshot, sender, timeout_seconds)

    def share_ipc(self, version: int) -> list[Mapping[str, Any]]:
        """Stage a version on every rank's GPU for the samplers there. A call of every rank.

        Returns:
            Per bucket the CUDA IPC handles of all ranks, by GPU uuid; the same on every rank.
        """
        from learner.transfer import merge_handles

        with self._snapshots["policy"].reading(version) as snapshot:
            self._ipc.stage(self._exchange.to_all(snapshot), self._engine.device)
        return merge_handles(self._exchange.collect(self._ipc.handles()))

    def clear_ipc(self) -> None:
        """Transfer lane: free what `share_ipc` staged."""
        self._ipc.clear()
