"""An engine without a model, for tests and for simulating many samplers: scripted answers drawn from the seed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from quorum.errors import EngineDied, EngineTimeout, ResourceError, RolloutError, WeightSyncError
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
from rollout.engines.completions import Load, RunningCompletion, group_of, version_spans
from rollout.engines.fake_clock import SimulatedClock, SimulatedCompletion
from rollout.engines.fake_options import FakeOptions
from rollout.settings import EngineProbe, SamplerSettings

_LONG_SECONDS = 86_400.0


@dataclass(slots=True)
class _Group:
    """What runs for one call of `generate`."""

    unfinished: list[SimulatedCompletion]
    finished: list[Completion] = field(default_factory=list)
    alarm: asyncio.Future[None] | None = None
    is_abandoned: bool = False

    def wake(self) -> None:
        if self.alarm is not None and not self.alarm.done():
            self.alarm.set_result(None)


class FakeEngine:
    """See `rollout.engine.Engine`. A token is one byte of the answer plus 3; token 1 ends the text.

    Answers depend on the seed alone, not on weights or load, so any number of samplers agree.
    """

    def __init__(self, settings: SamplerSettings, options: FakeOptions) -> None:
        self._settings = settings
        self._options = options
        self._clock = SimulatedClock(time.monotonic, options.max_running)
        self._groups: list[_Group] = []
        self._num_tokens = 0
        self._epoch: int | None = None
        self._num_updates = 0
        self._is_dead = self._is_frozen = self._is_asleep = False

    @property
    def engine_version(self) -> str:
        return "fake 1"

    async def start(self) -> None:
        """Wait as told, then be ready or fail as told."""
        await asyncio.sleep(self._options.start_seconds)
        if self._options.fail_start is not None:
            raise ResourceError(self._options.fail_start)

    async def generate(
        self, request: GroupRequest, version: int, on_completion: Callable[[Completion], None] | None = None
    ) -> tuple[RolloutGroup, int]:
        """See `rollout.engine.Engine.generate`; the prompt is prefilled once."""
        self._befall(request)
        if self._is_asleep:
            raise RolloutError("the engine sleeps; wake it and update its weights first")
        group = _Group([self._simulated(request, index, version) for index in request.drawn])
        self._groups.append(group)
        self._clock.add(group.unfinished)
        try:
            while group.unfinished:
                self._finish_due(group, on_completion)
                if group.unfinished:
                    await self._rest(group, is_watched=on_completion is not None)
        finally:
            self._groups.remove(group)
            if group.unfinished:
                self._free(group.unfinished)
        drawn = group_of(request, group.finished)
        missing = self._options.payload_bytes - sum(9 * len(c.token_ids) for c in drawn.completions)
        padded = replace(drawn, prompt_text=drawn.prompt_text + " " * max(0, missing))
        return padded, len(request.prompt.token_ids)

    def stop_completions(self, key: GroupKey, indices: Collection[int]) -> None:
        """See `rollout.engine.Engine.stop_completions`."""
        for group in self._groups:
            for one in group.unfinished:
                if one.running.key == key and one.running.index in indices:
                    one.running.is_stopped = True
                    group.wake()

    async def abandon(self) -> None:
        """See `rollout.engine.Engine.abandon`."""
        for group in self._groups:
            group.is_abandoned = True
            group.wake()
        while any(group.is_abandoned for group in self._groups):
            await asyncio.sleep(0)
        self._go_on()

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """Made-up log-probabilities that depend on the tokens alone."""
        return np.array([-1.0 / (1 + token) for token in token_ids[1:]], dtype=np.float32)

    async def check(self, seconds: float) -> None:
        """See `rollout.engine.Engine.check`."""
        if self._is_dead:
            raise EngineDied("the fake engine died")
        if self._is_frozen:
            await asyncio.sleep(seconds)
            raise EngineTimeout(f"no answer from the fake engine within {seconds:g} s")

    async def join_transfer(self, init: TransferInit) -> None:
        """Remember the epoch; no group is joined."""
        self._epoch = init.epoch

    async def update_weights(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """Accept the manifest without receiving bytes; a checksum is a hash of the tensor's description.

        Raises:
            WeightSyncError: the update belongs to another epoch than the one joined, or is told to fail.
        """
        began, version = time.perf_counter(), update.manifest.version
        self._clock.stand_still()
        try:
            await self._receive(update)
        except WeightSyncError:
            if not self._groups:
                self._go_on()
            raise
        self._num_updates += 1
        for group in self._groups:
            for one in group.unfinished:
                one.running.go_on(str(self._num_updates), version, one.num_tokens(self._clock.now))
        self._go_on()
        checksums = {
            meta.name: hashlib.blake2b(repr(meta).encode(), digest_size=8).hexdigest()
            for meta in update.manifest.tensors
            if update.verify
        }
        seconds = dict.fromkeys(("pause", "start", "finish", "reset", "resume"), 0.0)
        seconds["update"] = time.perf_counter() - began
        return WeightReceipt(sampler_id=sampler_id, version=version, checksums=checksums, seconds=seconds)

    def probe(self) -> EngineProbe:
        """See `rollout.engine.Engine.probe`."""
        running = [one for group in self._groups for one in group.unfinished]
        now = self._clock.now
        return EngineProbe(
            tokens_generated=self._num_tokens + sum(one.num_tokens(now) for one in running), num_running=len(running)
        )

    async def sleep(self) -> None:
        """See `rollout.engine.Engine.sleep`."""
        self._is_asleep = True

    async def wake(self) -> None:
        """See `rollout.engine.Engine.wake`."""
        self._is_asleep = False

    async def stop(self) -> None:
        """Nothing to end."""

    async def _receive(self, update: WeightUpdate) -> None:
        if self._is_dead:
            raise WeightSyncError("phase update: the fake engine died")
        if self._is_frozen:
            await asyncio.sleep(update.timeout_seconds)
            raise WeightSyncError(f"phase pause: no answer from the engine within {update.timeout_seconds:g} s")
        if update.epoch != self._epoch:
            raise WeightSyncError(f"phase update: epoch {update.epoch} was not joined, this engine is in {self._epoch}")
        fails = update.manifest.version in self._options.fail_updates
        await asyncio.sleep(self._options.sync_seconds / (2 if fails else 1))
        if fails:
            raise WeightSyncError(f"phase update: bucket 1 of {len(update.manifest.buckets)} is told to fail")

    def _go_on(self) -> None:
        if not self._is_frozen:
            self._clock.go_on()
            for group in self._groups:
                group.wake()

    def _befall(self, request: GroupRequest) -> None:
        """What is told to happen at this group's start."""
        options, group_id = self._options, request.key.group_id
        if self._is_dead:
            raise EngineDied("the fake engine died")
        if options.faulty_attempts is not None and request.attempt >= options.faulty_attempts:
            return
        if group_id in options.die_groups:
            os.kill(os.getpid(), 9)
        if group_id in options.fail_groups:
            raise RolloutError(f"group {group_id} is told to fail")
        if group_id in options.crash_groups:
            self._is_dead = True
            for group in self._groups:
                group.wake()
            raise EngineDied(f"the fake engine died of group {group_id}")
        if group_id in options.freeze_groups:
            self._is_frozen = True
            self._clock.stand_still()

    def _finish_due(self, group: _Group, on_completion: Callable[[Completion], None] | None) -> None:
        if self._is_dead:
            raise EngineDied("the fake engine died")
        if group.is_abandoned:
            raise RolloutError("the group was abandoned")
        now = self._clock.now
        ends_by = -1.0 if self._clock.stands_still else now
        due = [one for one in group.unfinished if one.running.is_stopped or one.end <= ends_by]
        if not due:
            return
        group.unfinished = [one for one in group.unfinished if one not in due]
        if any(one.end > ends_by for one in due):
            self._free(due)
        else:
            self._clock.remove(due)
        for one in due:
            completion = _completion(one, now)
            self._num_tokens += len(completion.token_ids)
            group.finished.append(completion)
            if on_completion is not None:
                on_completion(completion)

    def _free(self, ended_early: list[SimulatedCompletion]) -> None:
        """Take completions out before their time, so that others begin earlier than planned."""
        self._clock.remove(ended_early)
        for group in self._groups:
            group.wake()

    async def _rest(self, group: _Group, *, is_watched: bool) -> None:
        """Sleep until the next completion is due (the last one, when nobody watches), or something happens."""
        ends = [one.end for one in group.unfinished]
        seconds = (min(ends) if is_watched else max(ends)) - self._clock.now
        if self._clock.stands_still:
            seconds = _LONG_SECONDS
        loop = asyncio.get_running_loop()
        group.alarm = loop.create_future()
        timer = loop.call_later(seconds, group.wake)
        try:
            await group.alarm
        finally:
            timer.cancel()

    def _simulated(self, request: GroupRequest, index: int, version: int) -> SimulatedCompletion:
        options = self._options
        whole = self._draw(request, index)
        seconds = options.seconds_per_group + options.seconds_per_token * len(whole.token_ids)
        is_faulty = options.faulty_attempts is None or request.attempt < options.faulty_attempts
        if request.key.group_id in options.hang_groups and is_faulty:
            seconds = _LONG_SECONDS
        return SimulatedCompletion(
            running=RunningCompletion(request.key, index, [Load(str(self._num_updates), version, 0)]),
            whole=whole,
            seconds=seconds,
        )

    def _draw(self, request: GroupRequest, index: int) -> Completion:
        rng = random.Random(request.seed + index)
        text = rng.choices(self._options.answers, weights=self._options.weights)[0]
        if most := self._options.max_thinking_tokens:
            text = "." * int(most * random.Random(~(request.seed + index)).random() ** 3) + text
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
            spans=(),
        )


def _completion(one: SimulatedCompletion, now: float) -> Completion:
    """As it is at a time: whole, or stopped where it was."""
    num_tokens = one.num_tokens(now)
    spans = version_spans(one.running.started(num_tokens))
    if one.end <= now:
        return replace(one.whole, spans=spans)
    return replace(
        one.whole,
        token_ids=one.whole.token_ids[:num_tokens],
        rollout_logprobs=one.whole.rollout_logprobs[:num_tokens],
        text=one.whole.text[:num_tokens],
        finish_reason="abort",
        spans=spans,
    )
