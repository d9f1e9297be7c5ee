"""The sampler actor: one engine, the policy version it holds, and every process it started.

A plain class; `rollout.pool` makes it a Ray actor. All methods are coroutines of one event loop, so probes are
answered while groups are generated.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial

from configs.load import import_plugins
from quorum.errors import EngineTimeout, ResourceError, RolloutError, StaleSamplerError, WeightSyncError
from quorum.types import (
    Float32Array,
    GroupRequest,
    Receipt,
    RolloutGroup,
    TransferInit,
    WeightReceipt,
    WeightUpdate,
)
from rollout import watchdog
from rollout.early_stop import EarlyStop
from rollout.engine import Engine
from rollout.engines.registry import ENGINES
from rollout.settings import NO_VERSION, SamplerInfo, SamplerProbe, SamplerSettings

__all__ = ["NO_VERSION", "Sampler", "SamplerInfo", "SamplerProbe", "SamplerSettings"]

_LOG = logging.getLogger(__name__)
_UPDATE_STEPS = 10
"""Steps of an update besides its buckets, each with the same deadline."""
_ABANDON_SECONDS = 15.0
"""Time for the calls of abandoned groups to end."""


class Sampler:
    """Holds one policy version at a time and samples groups with it."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._settings = settings
        self._version = settings.initial_version
        self._num_groups = 0
        self._updated = asyncio.Event()
        self._updated.set()
        self._update_ends = 0.0
        self._abandoned = asyncio.Event()
        self._abandoned.set()
        self._num_abandonments = 0
        self._has_complained = False
        self._mark = watchdog.new_mark("sampler")
        self._engine: Engine | None = None
        self._watchdog: int | None = None
        self._folder = ""
        """Of the engine's temporary files."""

    async def start(self) -> SamplerInfo:
        """Start the engine.

        Returns:
            Everything the driver needs to know, process ids included.

        Raises:
            ResourceError: the engine did not come up; the message ends with the engine's own last error line.
        """
        begin = time.perf_counter()
        import_plugins(self._settings.plugins)
        entry = ENGINES[self._settings.engine]
        engine: Engine = entry.target(self._settings, entry.options(**self._settings.engine_options))
        driver = self._settings.driver
        watched = [driver[1]] if driver is not None and driver[0] == _node_id() else []
        self._folder = tempfile.mkdtemp(prefix="quorum-sampler-")
        self._watchdog = watchdog.start(self._mark, *watched, folder=self._folder)
        try:
            with watchdog.marking(self._mark, self._folder):
                await engine.start()
        except ResourceError as exc:
            self._sweep()
            raise ResourceError(
                f"sampler {self._settings.sampler_id}: its {self._settings.engine} engine did not start: {exc}"
            ) from exc
        self._engine = engine
        return self._info(self._watchdog, time.perf_counter() - begin)

    async def generate(self, request: GroupRequest) -> tuple[Receipt, RolloutGroup]:
        """Sample a group or part of one. Call with num_returns=2: the receipt is for the driver, the group for voters.

        A request that `allows_newer` versions waits while an update is under way; any other is refused then.

        Raises:
            StaleSamplerError: the request needs another policy version than the one held.
            EngineDied: the engine process is gone.
            RolloutError: the engine refused the request, or it was abandoned.
        """
        abandonments = self._num_abandonments
        self._num_groups += 1
        try:
            if request.allows_newer:
                await self._wait_for_update()
            if abandonments != self._num_abandonments:
                raise RolloutError(f"sampler {self._settings.sampler_id}: the group was abandoned")
            self._require(request.required_version, allows_newer=request.allows_newer)
            begin = time.perf_counter()
            group, num_prefilled = await self._draw(request)
        finally:
            self._num_groups -= 1
        receipt = Receipt.of(
            group,
            sampler_id=self._settings.sampler_id,
            num_prefilled_tokens=num_prefilled,
            seconds=time.perf_counter() - begin,
        )
        return receipt, group

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """[T - 1] log-probabilities of given tokens under the weights held; see `Engine.score`."""
        return await self._running_engine().score(token_ids)

    async def abandon(self) -> None:
        """End every group that is here; their calls raise RolloutError. Returns once the engine runs nothing.

        Waits for an update under way; one that is ordered meanwhile waits for this.

        Raises:
            EngineDied: the engine process is gone.
            EngineTimeout: it does not answer, or an update does not end.
        """
        self._num_abandonments += 1
        ended = self._abandoned = asyncio.Event()
        try:
            await self._wait_for_update()
            if self._is_updating:
                raise EngineTimeout(f"sampler {self._settings.sampler_id}: its weight update does not end")
            await self._running_engine().abandon()
            async with asyncio.timeout(_ABANDON_SECONDS):
                while self._num_groups:
                    await asyncio.sleep(0.002)
        except TimeoutError as exc:
            raise EngineTimeout(f"sampler {self._settings.sampler_id}: abandoned groups do not end") from exc
        finally:
            ended.set()

    async def check(self, seconds: float) -> None:
        """Ask the engine process for an answer. While weights are updated it is not asked: the update has deadlines
        of its own, and an engine that waits for bytes answers nothing else.

        Raises:
            EngineDied: the engine process is gone.
            EngineTimeout: it did not answer within `seconds`.
        """
        if not self._is_updating:
            await self._running_engine().check(seconds)

    async def sleep(self) -> None:
        """Give the device's memory to somebody else. Afterwards the sampler holds no version.

        Raises:
            WeightSyncError: groups are running.
        """
        self._require_idle("it can sleep")
        self._version = NO_VERSION
        await self._running_engine().sleep()

    async def wake(self) -> None:
        """Take the memory back; an update has to follow before the sampler serves anything."""
        await self._running_engine().wake()

    async def join_transfer(self, init: TransferInit) -> None:
        """Join the receiver group of one membership epoch.

        Raises:
            WeightSyncError: the group was not complete in time.
        """
        try:
            await self._running_engine().join_transfer(init)
        except WeightSyncError as exc:
            raise WeightSyncError(f"sampler {self._settings.sampler_id}: {exc}") from exc

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        """Take one published version; all phases run here. Groups may be running only with `update.keeps_requests`.

        From the first byte to the last the sampler holds no version, and none after a failure, so it never
        serves half-updated weights. Groups that were running then wait in the engine for the next update.

        Raises:
            WeightSyncError: groups are running, or a phase failed; names sampler, phase and bucket.
        """
        if not self._abandoned.is_set():
            await asyncio.wait_for(self._abandoned.wait(), 3 * _ABANDON_SECONDS)
        if self._is_updating or not update.keeps_requests:
            self._require_idle("an update")
        engine = self._running_engine()
        # As long as it may take at most: every bucket, and every step besides, has this deadline.
        self._update_ends = time.monotonic() + update.timeout_seconds * (len(update.manifest.buckets) + _UPDATE_STEPS)
        self._updated = asyncio.Event()
        self._version = NO_VERSION
        try:
            receipt = await engine.update_weights(update, self._settings.sampler_id)
            self._version = update.manifest.version
        except WeightSyncError as exc:
            who = f"sampler {self._settings.sampler_id}, version {update.manifest.version}"
            raise WeightSyncError(f"{who}: {exc}") from exc
        finally:
            self._updated.set()
        return receipt

    async def probe(self) -> SamplerProbe:
        """Version and progress; answers at once, also while groups are generated."""
        probe = self._running_engine().probe()
        return SamplerProbe(
            version=self._version,
            tokens_generated=probe.tokens_generated,
            num_running=probe.num_running,
        )

    async def stop(self) -> None:
        """End the engine and every process it started. Idempotent."""
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                await engine.stop()
        except TimeoutError:
            _LOG.warning("sampler %s: its engine did not end in time and is killed", self._settings.sampler_id)
        finally:
            self._sweep()

    def _sweep(self) -> None:
        """End what the engine left running, and remove what it left behind."""
        watchdog.end_marked(self._mark)
        pid, self._watchdog = self._watchdog, None
        if pid is not None:
            watchdog.dismiss(pid)

    @property
    def _is_updating(self) -> bool:
        return not self._updated.is_set()

    async def _wait_for_update(self) -> None:
        """Until the update under way ends, or its time is over."""
        if not self._is_updating:
            return
        try:
            await asyncio.wait_for(self._updated.wait(), max(0.0, self._update_ends - time.monotonic()))
        except TimeoutError:
            _LOG.warning("sampler %s: its weight update does not end", self._settings.sampler_id)

    def _require(self, version: int, *, allows_newer: bool) -> None:
        fits = self._version == version or (allows_newer and self._version > version)
        if self._is_updating or not self._abandoned.is_set() or not fits:
            raise StaleSamplerError(self._settings.sampler_id, self._version, version)

    def _require_idle(self, what: str) -> None:
        if self._num_groups or self._is_updating:
            raise WeightSyncError(
                f"sampler {self._settings.sampler_id}: {self._num_groups} groups are running"
                f"{' and an update' if self._is_updating else ''}; wait for them, or abandon them, before {what}"
            )

    async def _draw(self, request: GroupRequest) -> tuple[RolloutGroup, int]:
        engine = self._running_engine()
        if request.voter is None or not request.vote_only:
            return await engine.generate(request, self._version)
        with EarlyStop(request, partial(engine.stop_completions, request.key), self._complain) as early_stop:
            return await engine.generate(request, self._version, early_stop.note)

    def _complain(self, what: str) -> None:
        """About a voter: once, since every group would say the same."""
        if not self._has_complained:
            self._has_complained = True
            _LOG.warning("sampler %s: %s; groups are drawn to their ends", self._settings.sampler_id, what)

    def _running_engine(self) -> Engine:
        if self._engine is None:
            raise ResourceError(f"sampler {self._settings.sampler_id} is not started, or stopped already")
        return self._engine

    def _info(self, watchdog_pid: int, seconds: float) -> SamplerInfo:
        import psutil

        pid = os.getpid()
        children = {child.pid for child in psutil.Process(pid).children(recursive=True)} | {watchdog_pid}
        engine = self._running_engine()
        return SamplerInfo(
            sampler_id=self._settings.sampler_id,
            engine=self._settings.engine,
            engine_version=engine.engine_version,
            node_id=_node_id(),
            pid=pid,
            process_group=pid if os.getpgid(0) == pid else None,
            child_pids=tuple(sorted(children)),
            watchdog_pid=watchdog_pid,
            start_seconds=seconds,
            ready_at=time.time(),
        )


def _node_id() -> str:
    """Ray's id of this node; empty outside an actor."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else ""
