"""The sampler actor: one engine, the policy version it holds, and every process it started.

A plain class; `rollout.pool` makes it a Ray actor. All methods are coroutines of one event loop, so probes are
answered while groups are generated.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence

from configs.load import import_plugins
from quorum.errors import ResourceError, StaleSamplerError, WeightSyncError
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
from rollout.engine import Engine
from rollout.engines.registry import ENGINES
from rollout.settings import NO_VERSION, SamplerInfo, SamplerProbe, SamplerSettings

__all__ = ["NO_VERSION", "Sampler", "SamplerInfo", "SamplerProbe", "SamplerSettings"]

_LOG = logging.getLogger(__name__)


class Sampler:
    """Holds one policy version at a time and samples groups with it."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._settings = settings
        self._version = settings.initial_version
        self._num_groups = 0
        self._is_updating = False
        self._mark = watchdog.new_mark("sampler")
        self._engine: Engine | None = None
        self._watchdog: int | None = None

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
        self._watchdog = watchdog.start(self._mark, *watched)
        try:
            with watchdog.marking(self._mark):
                await engine.start()
        except ResourceError as exc:
            watchdog.end_marked(self._mark)
            watchdog.stop(self._watchdog)
            raise ResourceError(
                f"sampler {self._settings.sampler_id}: its {self._settings.engine} engine did not start: {exc}"
            ) from exc
        self._engine = engine
        return self._info(self._watchdog, time.perf_counter() - begin)

    async def generate(self, request: GroupRequest) -> tuple[Receipt, RolloutGroup]:
        """Sample one group. Call with num_returns=2: the receipt is for the driver, the group for the voters.

        Raises:
            StaleSamplerError: the request needs another policy version than the one held.
            EngineDied: the engine process is gone.
            RolloutError: the engine refused the request.
        """
        if request.required_version != self._version or self._is_updating:
            raise StaleSamplerError(self._settings.sampler_id, self._version, request.required_version)
        begin = time.perf_counter()
        self._num_groups += 1
        try:
            group, num_prefilled = await self._running_engine().generate(request, self._version)
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
        """Take one published version; all phases run here. Nothing may be running.

        From the first byte to the last the sampler holds no version, and none after a failure, so it never
        serves half-updated weights.

        Raises:
            WeightSyncError: groups are running, or a phase failed; names sampler, phase and bucket.
        """
        sampler_id = self._settings.sampler_id
        if self._num_groups or self._is_updating:
            raise WeightSyncError(
                f"sampler {sampler_id}: {self._num_groups} groups are running"
                f"{' and another update is under way' if self._is_updating else ''}; wait for them before an update"
            )
        self._is_updating, self._version = True, NO_VERSION
        try:
            receipt = await self._running_engine().update_weights(update, sampler_id)
        except WeightSyncError as exc:
            raise WeightSyncError(f"sampler {sampler_id}, version {update.manifest.version}: {exc}") from exc
        finally:
            self._is_updating = False
        self._version = update.manifest.version
        return receipt

    async def probe(self) -> SamplerProbe:
        """Version and progress; answers at once, also while groups are generated."""
        probe = self._running_engine().probe()
        return SamplerProbe(
            version=self._version, tokens_generated=probe.tokens_generated, num_running=probe.num_running
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
            watchdog.end_marked(self._mark)
            pid, self._watchdog = self._watchdog, None
            if pid is not None:
                watchdog.stop(pid)

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
            start_seconds=seconds,
        )


def _node_id() -> str:
    """Ray's id of this node; empty outside an actor."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else ""
