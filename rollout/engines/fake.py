"""An engine without a model, for tests and for simulating many samplers: scripted answers drawn from the seed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from quorum.errors import ResourceError, RolloutError, WeightSyncError
from quorum.registry import Options
from quorum.types import (
    Completion,
    Float32Array,
    GroupRequest,
    RolloutGroup,
    TransferInit,
    VersionSpan,
    WeightReceipt,
    WeightUpdate,
)
from rollout.settings import EngineProbe, SamplerSettings


class FakeOptions(Options):
    """How the fake answers, how long it takes and when it fails."""

    answers: tuple[str, ...] = ("\\boxed{1}", "\\boxed{2}", "\\boxed{3}", "no answer")
    """Texts; each completion takes one, by its own seed."""
    weights: tuple[float, ...] | None = None
    """Odds of the answers; None makes them equal."""
    start_seconds: float = Field(default=0.0, ge=0)
    """Time the start takes."""
    seconds_per_group: float = Field(default=0.0, ge=0)
    """Time a group takes."""
    fail_start: str | None = None
    """Error line of a start that fails."""
    fail_groups: tuple[int, ...] = ()
    """Group ids that are refused with a RolloutError."""
    die_groups: tuple[int, ...] = ()
    """Group ids at which the process kills itself."""
    hang_groups: tuple[int, ...] = ()
    """Group ids that never finish and make no token."""


class FakeEngine:
    """See `rollout.engine.Engine`. A token is one byte of the answer plus 3; token 1 ends the text.

    Answers depend on the seed alone, not on weights or load, so any number of samplers agree.
    """

    def __init__(self, settings: SamplerSettings, options: FakeOptions) -> None:
        self._settings = settings
        self._options = options
        self._num_tokens = 0
        self._num_running = 0
        self._epoch: int | None = None

    @property
    def engine_version(self) -> str:
        return "fake 1"

    async def start(self) -> None:
        """Wait as told, then be ready or fail as told."""
        await asyncio.sleep(self._options.start_seconds)
        if self._options.fail_start is not None:
            raise ResourceError(self._options.fail_start)

    async def generate(self, request: GroupRequest, version: int) -> tuple[RolloutGroup, int]:
        """See `rollout.engine.Engine.generate`; the prompt is prefilled once."""
        group_id = request.key.group_id
        self._num_running += request.sampling.num_completions
        try:
            if group_id in self._options.die_groups:
                os.kill(os.getpid(), 9)
            if group_id in self._options.hang_groups:
                await asyncio.sleep(86_400)
            if group_id in self._options.fail_groups:
                raise RolloutError(f"group {group_id} is told to fail")
            await asyncio.sleep(self._options.seconds_per_group)
        finally:
            self._num_running -= request.sampling.num_completions
        completions = tuple(self._complete(request, i, version) for i in range(request.sampling.num_completions))
        self._num_tokens += sum(len(completion.token_ids) for completion in completions)
        group = RolloutGroup(
            group_id=group_id,
            prompt_id=request.prompt.prompt_id,
            branch=request.key.branch,
            role=request.key.role,
            data_source=request.prompt.data_source,
            prompt_token_ids=request.prompt.token_ids,
            prompt_text=request.prompt.text,
            completions=completions,
            attempts=request.attempt + 1,
        )
        return group, len(request.prompt.token_ids)

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """Made-up log-probabilities that depend on the tokens alone."""
        return np.array([-1.0 / (1 + token) for token in token_ids[1:]], dtype=np.float32)

    async def join_transfer(self, init: TransferInit) -> None:
        """Remember the epoch; no group is joined."""
        self._epoch = init.epoch

    async def update_weights(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """Accept the manifest without receiving bytes; a checksum is a hash of the tensor's description.

        Raises:
            WeightSyncError: the update belongs to another epoch than the one joined.
        """
        if update.epoch != self._epoch:
            raise WeightSyncError(f"phase update: epoch {update.epoch} was not joined, this engine is in {self._epoch}")
        checksums = {
            meta.name: hashlib.blake2b(repr(meta).encode(), digest_size=8).hexdigest()
            for meta in update.manifest.tensors
            if update.verify
        }
        seconds = dict.fromkeys(("pause", "start", "update", "finish", "reset", "resume"), 0.0)
        return WeightReceipt(
            sampler_id=sampler_id, version=update.manifest.version, checksums=checksums, seconds=seconds
        )

    def probe(self) -> EngineProbe:
        return EngineProbe(tokens_generated=self._num_tokens, num_running=self._num_running)

    async def stop(self) -> None:
        """Nothing to end."""

    def _complete(self, request: GroupRequest, index: int, version: int) -> Completion:
        rng = random.Random(request.seed + index)
        text = rng.choices(self._options.answers, weights=self._options.weights)[0]
        token_ids = [byte + 3 for byte in text.encode()] + [1]
        limit = request.sampling.max_completion_tokens
        is_cut = len(token_ids) > limit
        token_ids = token_ids[:limit]
        return Completion(
            index=index,
            token_ids=np.array(token_ids, dtype=np.int32),
            text=text[: len(token_ids)] if is_cut else text,
            rollout_logprobs=np.array([-rng.random() for _ in token_ids], dtype=np.float32),
            finish_reason="length" if is_cut else "stop",
            spans=(VersionSpan(version, 0),),
        )
