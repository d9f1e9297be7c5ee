"""A receiver of `quorum bench sync` without an engine: our transport, and a plain Gloo broadcast, in one process.

Runs as a child (`python -m benchmarks.sync_bare`): one JSON order per line on stdin, JSON answers on stdout. Times
are those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from benchmarks.orders import Say, serve

SECONDS = 120.0


class BareReceiver:
    """Answers `start`, `join`, `receive` and `broadcast`."""

    def __init__(self) -> None:
        import torch

        from rollout.transfer.gloo import GlooTransport
        from rollout.transfer.intake import BucketIntake

        torch.set_num_threads(1)
        cpu = torch.device("cpu")
        self._intake = BucketIntake(GlooTransport(cpu), cpu)
        self._groups: dict[int, Any] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def start(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Join the plain group of all processes, and those of its first ones."""
        import torch.distributed as dist

        timeout = timedelta(seconds=SECONDS)
        store = dist.TCPStore(
            "127.0.0.1", order["port"], None, is_master=False, timeout=timeout, wait_for_workers=False
        )
        self._groups = plain_groups(store, order["rank"], order["counts"])
        return {"ok": True}

    def join(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Join a membership epoch."""
        from rollout.transfer.wire import JoinOrder

        rank = order["rank"]
        self._intake.join(JoinOrder(order["epoch"], "127.0.0.1", order["port"], order["world_size"], 1, SECONDS), rank)
        return {"ok": True}

    def receive(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Receive a version and drop it."""
        from rollout.transfer.wire import UpdateOrder

        update = UpdateOrder(order["version"], order["epoch"], order["buckets"], False, SECONDS)
        say({"waiting": True})
        began = time.monotonic()
        receipt = self._intake.receive(update, lambda tensors: None)
        return {"began": began, "ended": time.monotonic(), "receive": receipt["seconds"]["receive"]}

    def broadcast(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Take part in plain broadcasts of the given sizes."""
        import torch
        import torch.distributed as dist

        if len(self._buffer) < max(order["sizes"]):
            self._buffer = torch.zeros(max(order["sizes"]), dtype=torch.uint8)
        say({"waiting": True})
        for size in order["sizes"]:
            dist.broadcast(self._buffer[:size], src=0, group=self._groups[order["receivers"]])
        return {"ended": time.monotonic()}


def plain_groups(store: Any, rank: int, counts: list[int]) -> dict[int, Any]:
    """torch.distributed as anybody starts it: number of receivers -> group of rank 0 and the first ones of them.

    A call of all processes.
    """
    import torch.distributed as dist

    timeout = timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=1 + max(counts), timeout=timeout)
    return {num: dist.new_group(list(range(1 + num)), timeout=timeout, backend="gloo") for num in counts}


if __name__ == "__main__":
    serve(BareReceiver())
