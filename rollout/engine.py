"""What a sampler asks of an engine. An engine samples groups, takes weights and says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from quorum.types import (
    Completion,
    Float32Array,
    GroupKey,
    GroupRequest,
    RolloutGroup,
    TransferInit,
    WeightReceipt,
    WeightUpdate,
)
from rollout.settings import EngineProbe


class Engine(Protocol):
    """One engine in one process of its own or in the sampler's. All calls come from one event loop.

    An engine is built as `entry.target(settings, options)` with its validated options, see
    `rollout.engines.registry`. `generate` runs many at a time; the other calls come one at a time.
    """

    @property
    def engine_version(self) -> str:
        """Name and version of the engine, for the run's record."""

    async def start(self) -> None:
        """Load the model and become ready.

        Raises:
            ResourceError: the engine does not come up; the message carries its own last error line.
        """

    async def generate(
        self, request: GroupRequest, version: int, on_completion: Callable[[Completion], None] | None = None
    ) -> tuple[RolloutGroup, int]:
        """Draw the completions `request.drawn` of one group; completion i samples with seed `request.seed + i`.

        Args:
            request: what to draw.
            version: the policy version held at the call. Tokens drawn after an `update_weights` that came meanwhile
                carry its version in their span.
            on_completion: called on the event loop with each completion as it finishes.

        Returns:
            The group with completions in index order, and the prompt tokens really computed: one prompt per
            completion less what the prefix cache held.

        Raises:
            EngineDied: the engine process is gone.
            RolloutError: the engine refused or lost the request, or `abandon` ended it.
        """

    def stop_completions(self, key: GroupKey, indices: Collection[int]) -> None:
        """End completions of a running group where they are: they finish with what they have and finish_reason
        "abort". Those that are finished, and groups that are unknown, are left alone. Does not wait."""

    async def abandon(self) -> None:
        """End every running group; their `generate` raises RolloutError. Returns once the engine runs nothing."""

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """Log-probabilities of given tokens under the weights held, before temperature.

        Args:
            token_ids: [T], T >= 2.

        Returns:
            [T - 1] log-probability of token i + 1 given tokens 0..i.
        """

    async def check(self, seconds: float) -> None:
        """Ask the engine process for an answer, beside whatever it runs.

        Raises:
            EngineDied: it is gone.
            EngineTimeout: it did not answer within `seconds`.
        """

    async def join_transfer(self, init: TransferInit) -> None:
        """Join the receiver group of one membership epoch, leaving the one before.

        Raises:
            WeightSyncError: the group was not complete within its deadline.
        """

    async def update_weights(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """Receive one published version. Without `update.keeps_requests` the caller guarantees that nothing is running.

        With it running completions are paused, keep every token they have, and go on under the new weights; their
        spans tell the versions apart. KV cache of old weights is neither reused by requests that come later nor, with
        `update.kv_cache == "recompute"`, by those that go on.

        Raises:
            WeightSyncError: names the phase and the bucket. The weights are then undefined until another update
                succeeds, and completions that were running stay paused until then, or until `abandon`.
        """

    def probe(self) -> EngineProbe:
        """Progress so far, without asking the engine process."""

    async def sleep(self) -> None:
        """Give the device's memory to somebody else; nothing may be running. An engine on a CPU gives nothing up."""

    async def wake(self) -> None:
        """Take the memory back. The weights are undefined until an update succeeds."""

    async def stop(self) -> None:
        """End the engine and its processes. Idempotent."""
