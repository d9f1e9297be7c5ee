"""A receiver of the stage `transfer-*`: our transport on its device, without an engine.

Runs as a child (`python -m benchmarks.gpu_check.transfer_receiver`), see `benchmarks.orders`.
"""

from __future__ import annotations

import base64
from typing import Any

from benchmarks.orders import Say, serve

SECONDS = 120.0


class TransferReceiver:
    """Answers `start`, `join` and `receive`."""

    def __init__(self) -> None:
        self._intake: Any = None

    def start(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the transport on the first device that is seen."""
        import torch

        from rollout.transfer.gloo import GlooTransport
        from rollout.transfer.intake import BucketIntake
        from rollout.transfer.ipc import IpcTransport
        from rollout.transfer.nccl import NcclTransport

        transports: dict[str, Any] = {"gloo": GlooTransport, "ipc": IpcTransport, "nccl": NcclTransport}
        device = torch.device("cpu") if order["backend"] == "gloo" else torch.device("cuda", 0)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._intake = BucketIntake(transports[order["backend"]](device), device)
        return {"ok": True}

    def join(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Join a membership epoch as its rank 1."""
        from rollout.transfer.wire import JoinOrder

        self._intake.join(JoinOrder(order["epoch"], "127.0.0.1", order["port"], 2, 1, SECONDS), 1)
        return {"ok": True}

    def receive(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Receive a version and drop it. The device has ended what it was told before the answer."""
        from rollout.transfer.wire import UpdateOrder

        handles = [base64.b64decode(handle) for handle in order["handles"]]
        payload = {"handles": handles} if handles else {}
        update = UpdateOrder(order["version"], order["epoch"], order["buckets"], order["verify"], SECONDS, payload)
        say({"waiting": True})
        receipt = self._intake.receive(update, lambda tensors: None)
        return {"receive": receipt["seconds"]["receive"], "checksums": receipt["checksums"]}


if __name__ == "__main__":
    serve(TransferReceiver())
