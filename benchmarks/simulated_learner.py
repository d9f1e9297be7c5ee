"""A learner whose update takes a known time and whose weights weigh nothing: the driver's other parts are real."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from learner.rank import Progress
from learner.transfer_lane import WeightsOf
from quorum.types import TensorMeta, TrainingBatch, TransferInit, UpdateStats, WeightManifest

WAIT_SECONDS = 0.02
"""Between two looks at the clock, as the real group looks at its ranks."""


class SimulatedLearner:
    """What `learner.group.LearnerGroup` is to the loop and to weight sync, without ranks.

    Args:
        update_seconds: time that an update takes.
        metas: tensors of a published version; their bytes are not sent.
    """

    def __init__(
        self, update_seconds: float, metas: Sequence[TensorMeta] = (TensorMeta("w", "bfloat16", (1,)),)
    ) -> None:
        self.update_seconds = update_seconds
        self._metas = tuple(metas)

    def update(self, batch: TrainingBatch, meanwhile: Callable[[float], None] | None = None) -> UpdateStats:
        """Take the time, and do the driver's other business meanwhile."""
        began = time.monotonic()
        while (left := began + self.update_seconds - time.monotonic()) > 0:
            if meanwhile is None:
                time.sleep(left)
            else:
                meanwhile(min(left, WAIT_SECONDS))
        nothing = dict.fromkeys(("loss", "grad_norm", "kl", "entropy", "logprob_gap", "clip_share"), 0.0)
        return UpdateStats(
            step=batch.step,
            version=batch.step + 1,
            num_updates=1,
            num_tokens=batch.num_tokens,
            seconds=time.monotonic() - began,
            **nothing,  # type: ignore[arg-type]
        )

    def publish(self, version: int, incarnation: int, of: WeightsOf = "policy") -> WeightManifest:
        return WeightManifest(version=version, incarnation=incarnation, buckets=(self._metas,))

    def checksums(self, version: int, of: WeightsOf = "policy") -> dict[str, str]:
        raise AssertionError("bytes that were not sent have no checksum: set sync.verify_every to 0")

    def open_transfer(self, backend: str, epoch: int, world_size: int, port: int = 0) -> tuple[str, int]:
        return "127.0.0.1", 0

    def join_transfer(self, init: TransferInit) -> Any:
        return _done()

    def close_transfer(self, epoch: int) -> None:
        """Nothing is open."""

    def send(self, version: int, epoch: int, timeout_seconds: float, of: WeightsOf = "policy") -> list[Any]:
        return [_done()]

    def progress(self) -> list[Progress | None]:
        return [Progress(0, "simulated")]

    def kill(self) -> None:
        """Nothing runs."""

    def stop(self, timeout: float | None = None) -> None:
        """Nothing runs."""

    def describe(self) -> list[tuple[str, int]]:
        return []


def _done() -> Any:
    import ray

    return ray.put(None)
