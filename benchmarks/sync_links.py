"""The sending side of `quorum bench sync`: a learner of one rank, and the children that receive from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from quorum.types import TensorMeta, TransferInit, WeightManifest
from quorum.wire import bucket_bytes
from rollout.transfer.wire import manifest_to_plain

SECONDS = 120.0
"""Deadline of every wait here but the engines' start."""
START_SECONDS = 400.0
SETTLE_SECONDS = 0.02
"""Between a receiver's word that it is about to wait and the sender's first byte."""
TENSOR_BYTES = 10_000_000
HOST = "127.0.0.1"


class Receiver(Child):
    """One receiving process: bare, or with an engine."""

    def __init__(self, number: int, kind: str) -> None:
        env = {
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        super().__init__(f"{kind} receiver {number}", f"benchmarks.sync_{kind}", env)


@dataclass
class Learner:
    """Rank 0 of every transfer."""

    exchange: Any
    next_epoch: int = 1

    @classmethod
    def make(cls) -> Learner:
        """One rank, which owns every bucket."""
        from learner.exchange import BucketExchange

        return cls(BucketExchange(0, 1, timedelta(seconds=SECONDS)))

    def connect(self, receivers: Sequence[Child]) -> Link:
        """A membership epoch of these receivers."""
        import torch

        from learner.transfer import open_sender

        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        world_size = 1 + len(receivers)
        patience = timedelta(seconds=SECONDS)
        sender, port = open_sender("gloo", HOST, 0, world_size, torch.device("cpu"), patience)
        order = {"do": "join", "epoch": epoch, "port": port, "world_size": world_size}
        for rank, receiver in enumerate(receivers, start=1):
            receiver.tell(order | {"rank": rank})
        sender.join(
            TransferInit(
                backend="gloo",
                epoch=epoch,
                host=HOST,
                port=port,
                world_size=world_size,
                rank_offset=0,
                timeout_seconds=SECONDS,
            )
        )
        for receiver in receivers:
            receiver.answer("join", SECONDS)
        return Link(self, sender, epoch, receivers)


@dataclass
class Link:
    """One open epoch."""

    learner: Learner
    sender: Any
    epoch: int
    receivers: Sequence[Child]

    def send(self, snapshot: Any, options: Mapping[str, Any] | None = None) -> tuple[float, list[dict[str, Any]]]:
        """Send to all of them. Returns when on the machine's clock it began, and what they say."""
        from learner.transfer import send_snapshot

        manifest = snapshot.manifest
        order = {"do": "receive", "epoch": self.epoch, "version": manifest.version}
        order |= {"buckets": manifest_to_plain(manifest), **(options or {})}
        for receiver in self.receivers:
            receiver.tell(order)
        for receiver in self.receivers:
            receiver.answer("get ready to receive", SECONDS)
        time.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        send_snapshot(self.learner.exchange, snapshot, self.sender, SECONDS)
        return began, [receiver.answer("receive", SECONDS) for receiver in self.receivers]

    def close(self) -> None:
        """Leave the epoch."""
        self.sender.close()


def random_snapshot(num_bytes: int, bucket_mib: int, seed: int) -> Any:
    """A published version of so many bytes, in tensors of TENSOR_BYTES."""
    import torch

    metas = [
        TensorMeta(f"weight-{i}", "uint8", (min(TENSOR_BYTES, num_bytes - start),))
        for i, start in enumerate(range(0, num_bytes, TENSOR_BYTES))
    ]
    generator = torch.Generator().manual_seed(seed)

    def fill(size: int) -> torch.Tensor:
        # Noise once and then copies of it: the wire does not compress, and making gigabytes of it takes longer.
        noise = torch.randint(0, 256, (min(size, TENSOR_BYTES),), dtype=torch.uint8, generator=generator)
        return noise.repeat(-(-size // len(noise)))[:size].clone()

    return _snapshot(metas, bucket_mib, version=1, fill=fill)


def model_snapshot(directory: Path, bucket_mib: int, version: int) -> Any:
    """A saved model's weights in bfloat16 as a published version."""
    import torch
    from safetensors.torch import load_file

    from learner.weights import raw_bytes

    state = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(directory / "model.safetensors").items()}
    metas = [TensorMeta(name, "bfloat16", tuple(tensor.shape)) for name, tensor in state.items()]
    rest = iter(state.values())

    def fill(size: int) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        while sum(map(len, parts)) < size:
            parts.append(raw_bytes(next(rest)))
        return torch.cat(parts)

    return _snapshot(metas, bucket_mib, version=version, fill=fill)


def _snapshot(metas: Sequence[TensorMeta], bucket_mib: int, version: int, fill: Any) -> Any:
    from learner.weights import Snapshot, plan_buckets

    manifest = WeightManifest(version=version, incarnation=0, buckets=plan_buckets(metas, bucket_mib << 20))
    owned = {index: fill(bucket_bytes(bucket)) for index, bucket in enumerate(manifest.buckets)}
    return Snapshot(manifest=manifest, num_owners=1, owned=owned)


def available_gib() -> float:
    """Memory that this machine can still give, in GiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable"))
