"""Seconds of a weight transfer over those of plain copies of the same bytes over the same links, in the same run.

Colocated (CUDA IPC) the bytes go from pinned host memory to the GPU and once across it; apart (NCCL) from pinned host
memory to one GPU and from it to the other. The transfer is what is staged or sent, and received; what an engine does
with it afterwards is not in it. One verified transfer first shows that the bytes arrive.
"""

from __future__ import annotations

import argparse
import base64
import os
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from benchmarks.child import Child
from benchmarks.shapes import shape_of
from benchmarks.sync_links import HOST, random_snapshot
from configs.schema import SyncSection
from orchestration.cli.result import result_line
from quorum.errors import StageError
from quorum.types import TransferInit
from quorum.wire import bucket_bytes
from rollout.transfer.wire import manifest_to_plain

SECONDS = 120.0
EPOCH = 1
BYTES_PER_WEIGHT = 2
SETTLE_SECONDS = 0.02
"""Between a receiver's word that it is about to wait and the sender's first byte."""


def main() -> None:
    """Measure and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("ipc", "nccl", "gloo"), default="ipc", help="gloo on a CPU in any case")
    parser.add_argument("--shape", default="qwen2.5-1.5b")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="1 MB in 3 transfers")
    options = parser.parse_args()
    if options.device == "cpu":
        options.backend = "gloo"
    num_bytes = BYTES_PER_WEIGHT * num_weights(options.shape)
    if options.tiny:
        num_bytes, options.repeats = 1_000_000, 3
    print(
        result_line("transfer", measure(options.backend, num_bytes, options.repeats), seed=0, repeats=options.repeats)
    )


def num_weights(shape: str) -> int:
    """Parameters in matrices, the embedding's once where it is tied."""
    found = shape_of(shape)
    return found.body_parameters + found.head_parameters * (1 if found.is_tied else 2)


def measure(backend: str, num_bytes: int, repeats: int) -> dict[str, Any]:
    """Transfers and copies in turn; medians, and the median of the paired ratios."""
    snapshot = random_snapshot(num_bytes, SyncSection().bucket_mib, seed=0)
    if backend != "gloo":
        snapshot = _pinned(snapshot)
    copy = _copies(backend, snapshot)
    side = _Side.make(backend)
    try:
        checksums = side.transfer(snapshot, is_verified=True).checksums
        different = [name for name, value in snapshot.checksums().items() if checksums.get(name) != value]
        if different:
            raise StageError(f"{len(different)} tensors arrived with other bytes, first {different[0]}")
        rounds = [(side.transfer(snapshot).seconds, copy()) for _ in range(repeats + 1)][1:]
    finally:
        side.receiver.stop()
    seconds, bounds = zip(*rounds, strict=True)
    return {
        "over_copy": statistics.median(ours / bound for ours, bound in rounds),
        "backend": backend,
        "transfer_seconds": statistics.median(seconds),
        "copy_seconds": statistics.median(bounds),
        "gigabytes": num_bytes / 1e9,
        "gigabytes_per_second": num_bytes / 1e9 / statistics.median(seconds),
        "num_buckets": len(snapshot.manifest.buckets),
        "is_verified": True,
    }


@dataclass(frozen=True, slots=True)
class Transferred:
    """One transfer."""

    seconds: float
    checksums: dict[str, str]


@dataclass
class _Side:
    """The learner's side of a transfer to one receiver."""

    backend: str
    receiver: Child
    sender: Any
    """Of an epoch; None with CUDA IPC, where nobody joins."""
    ipc: Any

    @classmethod
    def make(cls, backend: str) -> _Side:
        from learner.transfer import IpcHandles

        # A second GPU is the receiver's; on a shared one both see the same.
        env = {"CUDA_VISIBLE_DEVICES": "1"} if backend == "nccl" else {}
        env |= {"GLOO_SOCKET_IFNAME": "lo", "VLLM_LOGGING_LEVEL": "ERROR"}
        receiver = Child(f"{backend} receiver", "benchmarks.gpu_check.transfer_receiver", env)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        try:
            receiver.ask({"do": "start", "backend": backend}, SECONDS)
            return cls(backend, receiver, _join(backend, receiver), IpcHandles())
        except BaseException:
            receiver.stop()
            raise

    def transfer(self, snapshot: Any, *, is_verified: bool = False) -> Transferred:
        """Bring a snapshot to the receiver."""
        from learner.transfer import merge_handles

        handles, seconds = [], 0.0
        if self.backend == "ipc":
            began = time.perf_counter()
            self.ipc.stage(snapshot.owned.values(), _device())
            merged = merge_handles([self.ipc.handles()])
            seconds = time.perf_counter() - began
            handles = [base64.b64encode(pickle.dumps(handle)).decode() for handle in merged]
        self.receiver.tell(
            {
                "do": "receive",
                "epoch": EPOCH,
                "version": snapshot.manifest.version,
                "buckets": manifest_to_plain(snapshot.manifest),
                "handles": handles,
                "verify": is_verified,
            }
        )
        self.receiver.answer("get ready to receive", SECONDS)
        if self.sender is not None:
            time.sleep(SETTLE_SECONDS)
            began = time.perf_counter()
            for flat in snapshot.owned.values():
                self.sender.broadcast(flat, SECONDS)
            seconds = time.perf_counter() - began
        answer = self.receiver.answer("receive", SECONDS)
        if self.backend == "ipc":
            seconds += answer["receive"]
            self.ipc.clear()
        return Transferred(seconds, answer["checksums"])


def _join(backend: str, receiver: Child) -> Any:
    from learner.transfer import open_sender

    port, sender = 0, None
    if backend != "ipc":
        device = _device() if backend == "nccl" else "cpu"
        sender, port = open_sender(backend, HOST, 0, 2, device, timedelta(seconds=SECONDS))
    receiver.tell({"do": "join", "epoch": EPOCH, "port": port})
    if sender is not None:
        init = {"backend": backend, "epoch": EPOCH, "host": HOST, "port": port, "world_size": 2, "rank_offset": 0}
        sender.join(TransferInit(**init, timeout_seconds=SECONDS))
    receiver.answer("join", SECONDS)
    return sender


def _device() -> Any:
    import torch

    return torch.device("cuda", 0)


def _pinned(snapshot: Any) -> Any:
    """As a rank on a GPU keeps it."""
    from learner.weights import Snapshot

    owned = {index: flat.pin_memory() for index, flat in snapshot.owned.items()}
    return Snapshot(manifest=snapshot.manifest, num_owners=1, owned=owned)


def _copies(backend: str, snapshot: Any) -> Callable[[], float]:
    """Seconds of plain copies of the snapshot over the links that a transfer takes, into memory that is there."""
    import torch

    size = max(bucket_bytes(bucket) for bucket in snapshot.manifest.buckets)
    first = torch.zeros(size, dtype=torch.uint8, device="cpu" if backend == "gloo" else "cuda:0")
    then = None if backend == "gloo" else torch.zeros_like(first, device="cuda:1" if backend == "nccl" else "cuda:0")

    def copy() -> float:
        began = time.perf_counter()
        for flat in snapshot.owned.values():
            first[: len(flat)].copy_(flat, non_blocking=True)
            if then is not None:
                then[: len(flat)].copy_(first[: len(flat)], non_blocking=True)
        if then is not None:
            torch.cuda.synchronize(first.device)
            torch.cuda.synchronize(then.device)
        return time.perf_counter() - began

    return copy


if __name__ == "__main__":
    main()
