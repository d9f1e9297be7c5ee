"""What a sampler asks of an engine. An engine samples groups, takes weights and says how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quorum.types import Float32Array, GroupRequest, RolloutGroup, TransferInit, WeightReceipt, WeightUpdate
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

    async def generate(self, request: GroupRequest, version: int) -> tuple[RolloutGroup, int]:
        """Draw the k completions of one group; completion i samples with seed `request.seed + i`.

        Args:
            request: what to draw.
            version: the policy version held, stamped on every completion.

        Returns:
            The group with completions in index order, and the prompt tokens really computed: k prompts
            less what the prefix cache held.

        Raises:
            EngineDied: the engine process is gone.
            RolloutError: the engine refused or lost the request.
        """

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """Log-probabilities of given tokens under the weights held, before temperature.

        Args:
            token_ids: [T], T >= 2.

        Returns:
            [T - 1] log-probability of token i + 1 given tokens 0..i.
        """

    async def join_transfer(self, init: TransferInit) -> None:
        """Join the receiver group of one membership epoch, leaving the one before.

        Raises:
            WeightSyncError: the group was not complete within its deadline.
        """

    async def update_weights(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """Receive one published version. The caller guarantees that nothing is running.

        Raises:
            WeightSyncError: names the phase and the bucket. The weights are then undefined until another
                update succeeds.
        """

    def probe(self) -> EngineProbe:
        """Progress so far, without asking the engine process."""

    async def stop(self) -> None:
        """End the engine and its processes. Idempotent."""
