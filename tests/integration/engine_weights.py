"""Sends weights over Gloo to one engine in this process: the learner's half, as small as it can be, without Ray."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from typing import Any, Literal

from quorum.types import TransferInit, WeightManifest, WeightReceipt, WeightUpdate
from tests.integration.tiny_models import manifest_of

TIMEOUT_SECONDS = 30.0


class EngineSender:
    """Rank 0 of a Gloo group of two; the engine's worker is the other. Make a new one, with a new epoch, per failure.

    Args:
        engine: a started Engine.
        epoch: membership number, higher than that of the sender before.
        timeout_seconds: of every bucket.
    """

    def __init__(self, engine: Any, epoch: int, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._engine = engine
        self._epoch = epoch
        self._timeout = timeout_seconds
        self._group: Any = None

    async def connect(self) -> None:
        from torch.distributed import TCPStore

        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        store = TCPStore(
            "127.0.0.1",
            port,
            2,
            is_master=True,
            timeout=timedelta(seconds=self._timeout),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        init = TransferInit(
            backend="gloo",
            epoch=self._epoch,
            host="127.0.0.1",
            port=port,
            world_size=2,
            rank_offset=1,
            timeout_seconds=self._timeout,
        )
        await asyncio.wait_for(
            asyncio.gather(self._engine.join_transfer(init), asyncio.to_thread(self._join, store)), 60
        )

    async def push(
        self,
        weights: list[tuple[str, Any]],
        version: int,
        *,
        keeps_requests: bool = True,
        kv_cache: Literal["recompute", "keep"] = "recompute",
        num_buckets: int | None = None,
    ) -> WeightReceipt:
        """One update, of all buckets or, to make it fail, of the first `num_buckets`."""
        manifest = manifest_of(weights, version)
        assert len(manifest.buckets) > 3
        update = WeightUpdate(
            manifest=manifest,
            epoch=self._epoch,
            verify=False,
            timeout_seconds=self._timeout,
            keeps_requests=keeps_requests,
            kv_cache=kv_cache,
        )
        sending = asyncio.to_thread(self._send, manifest, weights, num_buckets)
        receipt, _ = await asyncio.wait_for(asyncio.gather(self._engine.update_weights(update, "s"), sending), 120)
        return receipt

    def _join(self, store: Any) -> None:
        from torch.distributed import PrefixStore, ProcessGroupGloo

        options = ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=self._timeout)
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        self._group = ProcessGroupGloo(PrefixStore(f"quorum-{self._epoch}", store), 0, 2, options)

    def _send(self, manifest: WeightManifest, weights: list[tuple[str, Any]], num_buckets: int | None) -> None:
        import torch

        by_name = dict(weights)
        for bucket in manifest.buckets[:num_buckets]:
            flat = torch.cat([by_name[meta.name].reshape(-1).view(torch.uint8) for meta in bucket])
            self._group.broadcast(flat, 0).wait(timedelta(seconds=self._timeout))
