"""Receivers in plain processes: our transport without an engine, for tests of what happens when one dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quorum.types import TransferInit, WeightManifest
from rollout.transfer.wire import JoinOrder, UpdateOrder, manifest_to_plain, merges_to_plain
from tests.integration.learner_processes import context

SECONDS = 60


class Answer(NamedTuple):
    """What came of an order to a receiver."""

    error: str
    """Empty when it went well."""
    checksums: dict[str, str]
    seconds: float


def _serve(pipe: Any) -> None:
    import torch

    from rollout.transfer.gloo import GlooTransport
    from rollout.transfer.intake import BucketIntake

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    intake = BucketIntake(GlooTransport(cpu), cpu)
    while True:
        name, *args = pipe.recv()
        begin, checksums = time.monotonic(), {}
        try:
            checksums = _obey(pipe, intake, name, *args)
            error = ""
        except Exception as failure:  # noqa: BLE001 - handed to the test
            error = f"{type(failure).__name__}: {failure}"
        pipe.send(Answer(error, checksums, time.monotonic() - begin))


def _obey(pipe: Any, intake: Any, name: str, *args: Any) -> dict[str, str]:
    if name == "join":
        intake.join(*args)
        return {}
    order, pause, model = args
    arrived: dict[str, Any] = {}

    def load(tensors: Any) -> None:
        arrived.update(tensors)
        pipe.send("a bucket")
        time.sleep(pause)

    receipt = intake.receive(order, load)
    return receipt["checksums"] if model is None else _merged_checksums(order, arrived, model)


def _merged_checksums(order: UpdateOrder, arrived: dict[str, Any], model: str) -> dict[str, str]:
    import torch

    from rollout.transfer.adapters import BaseWeights, merged_weights
    from rollout.transfer.wire import merges_from_plain, tensor_checksum

    merges = merges_from_plain(order.merges)
    made = merged_weights(BaseWeights.find(model), arrived, merges, torch.device("cpu"))
    return {name: tensor_checksum(tensor) for name, tensor in made}


class Receiver:
    """One process."""

    def __init__(self) -> None:
        made = context()
        self.pipe, theirs = made.Pipe()
        self.process = made.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()

    def join(self, init: TransferInit, rank: int) -> None:
        """Order to join; `answer` waits for it."""
        order = JoinOrder(init.epoch, init.host, init.port, init.world_size, rank, init.timeout_seconds)
        self.pipe.send(("join", order, rank))

    def receive(
        self, manifest: WeightManifest, epoch: int, seconds: float, pause: float = 0.0, model: Path | None = None
    ) -> None:
        """Order to receive, pausing after each bucket. With `model` the checksums are those of merged weights."""
        order = UpdateOrder(
            manifest.version, epoch, manifest_to_plain(manifest), True, seconds, merges=merges_to_plain(manifest)
        )
        self.pipe.send(("receive", order, pause, str(model) if model else None))

    def wait_for_buckets(self, num: int) -> None:
        """Return once so many have arrived."""
        for _ in range(num):
            assert self.pipe.poll(SECONDS) and self.pipe.recv() == "a bucket"

    def answer(self) -> Answer:
        """Of the order given last."""
        while True:
            assert self.pipe.poll(SECONDS), "the receiver hangs"
            said = self.pipe.recv()
            if isinstance(said, Answer):
                return said

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill or stop it."""
        assert self.process.pid is not None
        os.kill(self.process.pid, how)


class Receivers:
    """Some of them; use as a context manager."""

    def __init__(self, num: int) -> None:
        self.all = [Receiver() for _ in range(num)]

    def __enter__(self) -> list[Receiver]:
        return self.all

    def __exit__(self, *_: object) -> None:
        for receiver in self.all:
            receiver.process.kill()
            receiver.process.join(5)


def join_all(receivers: Sequence[Receiver], init: TransferInit) -> None:
    """Order all to join; the sender joins meanwhile."""
    for rank, receiver in enumerate(receivers, start=1):
        receiver.join(init, rank)
