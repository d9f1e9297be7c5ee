"""Weight updates of a vLLM engine, under completions that go on: pause, count, load, clear the caches, resume."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import pickle
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from quorum.errors import WeightSyncError
from quorum.types import TransferInit, WeightReceipt, WeightUpdate
from rollout.engines.completions import RunningCompletion
from rollout.engines.vllm_calls import answer
from rollout.transfer.wire import manifest_to_plain, merges_to_plain

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_REPLY_SECONDS = 15.0
"""Time for an answer to come back after the engine process's own deadline has passed."""
_FIRST_STAMP = "0"


class VllmUpdater:
    """Brings weights into one AsyncLLM.

    Args:
        llm: the engine.
        running: what runs in it, by request id; the updater writes down where a completion's weights changed.
        version: the policy version of the weights that the engine started with.
    """

    def __init__(self, llm: Any, running: Mapping[str, RunningCompletion], version: int) -> None:
        self._llm = llm
        self._running = running
        self._stamps = itertools.count(1)
        self._stamps_outputs = "weight_version" in inspect.signature(llm.finish_weight_update).parameters
        self.stamp = _FIRST_STAMP
        """Names the load of the weights held. vLLM labels tokens with it where it can."""
        self.versions = {_FIRST_STAMP: version}
        """Stamp -> policy version."""
        self.salt: str | None = None
        """Cache salt of requests that come now; set once old weights' blocks had to stay in the prefix cache."""
        self._may_be_half_done = False
        """Whether an update was started in the workers that may not have been finished there."""
        self.is_paused = False
        """Whether an update failed under completions, which wait for the next one."""

    async def start(self) -> None:
        """Label the weights that the engine started with."""
        if self._stamps_outputs:
            await answer(self._llm, self._llm.update_weight_version(_FIRST_STAMP), _REPLY_SECONDS)

    async def join(self, init: TransferInit) -> None:
        """See `rollout.engine.Engine.join_transfer`."""
        info = {
            "epoch": init.epoch,
            "host": init.host,
            "port": init.port,
            "world_size": init.world_size,
            "rank_offset": init.rank_offset,
            "timeout_seconds": init.timeout_seconds,
        }
        call = self._rpc("init_weight_transfer_engine", {"init_info": info}, init.timeout_seconds)
        await self._phase(f"join epoch {init.epoch}", call, init.timeout_seconds)

    async def update(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """See `rollout.engine.Engine.update_weights`."""
        llm, limit, version = self._llm, update.timeout_seconds, update.manifest.version
        seconds: dict[str, float] = {}

        async def phase(name: str, call: Awaitable[T], limit: float = limit) -> T:
            begin = time.perf_counter()
            result = await self._phase(name, call, limit)
            seconds[name] = time.perf_counter() - begin
            return result

        stamp = str(next(self._stamps))
        try:
            # Not pause_generation, which sleeps 20 ms for what _count_tokens makes sure of.
            await phase("pause", llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=False))
            num_tokens = await self._phase("count", self._count_tokens(), limit)
            if self._may_be_half_done:
                await self._phase("start", self._rpc("quorum_forget_update", {}, limit), limit)
            self._may_be_half_done = True
            await phase("start", self._rpc("start_weight_update", {}, limit))
            # The limit is one bucket's, and kept in the worker.
            all_buckets = limit * max(1, len(update.manifest.buckets))
            order = self._rpc("update_weights", {"update_info": _update_info(update)}, all_buckets)
            await phase("update", order, all_buckets)
            await phase("finish", self._finish(stamp, limit))
            await phase("reset", self._clear_caches(update, stamp))
            receipts = await self._phase("receipt", self._rpc("quorum_transfer_receipt", {}, limit), limit)
            checksums = receipts[0]["checksums"]
            self._may_be_half_done = False
            if any(receipt["checksums"] != checksums for receipt in receipts):
                raise WeightSyncError("phase receipt: the engine's workers received different bytes")
        except BaseException:
            await self._settle_failure(limit)
            raise
        self.stamp, self.versions[stamp] = stamp, version
        for request_id, completion in self._running.items():
            completion.go_on(stamp, version, num_tokens.get(request_id, 0))
        self.is_paused = True
        await phase("resume", llm.resume_generation())
        self.is_paused = False
        for part in receipts[0]["seconds"]:
            seconds[f"update_{part}"] = max(receipt["seconds"][part] for receipt in receipts)
        return WeightReceipt(sampler_id=sampler_id, version=version, checksums=checksums, seconds=seconds)

    async def resume(self) -> None:
        """Let the engine go on; whoever calls sees to it that nothing runs in it."""
        await self._llm.resume_generation()
        self.is_paused = False

    async def _settle_failure(self, limit: float) -> None:
        """Keep what runs paused: its weights are undefined. An engine with nothing to run need not stay so."""
        self.is_paused = True
        if not self._running:
            try:
                await self._phase("resume", self.resume(), limit)
            except WeightSyncError as exc:
                _LOG.warning("after a failed weight update: %s", exc)

    async def _count_tokens(self) -> dict[str, int]:
        """Request id -> output tokens, once all that the engine made before the pause has been counted.

        vLLM's pause returns when the engine process has sent its last tokens; its own output handler takes them from
        a queue one by one, so when it takes an empty message put behind them, it is through with them.
        """
        from vllm.v1.engine import EngineCoreOutputs

        queue = self._llm.engine_core.outputs_queue
        queue.put_nowait(EngineCoreOutputs())
        while not queue.empty():
            await asyncio.sleep(0.001)
        states = self._llm.output_processor.request_states.values()
        return {s.external_req_id: s.detokenizer.num_output_tokens() for s in states if s.detokenizer is not None}

    async def _finish(self, stamp: str, limit: float) -> None:
        await self._rpc("finish_weight_update", {}, limit)
        if self._stamps_outputs:
            await self._llm.update_weight_version(stamp)

    async def _clear_caches(self, update: WeightUpdate, stamp: str) -> None:
        """Leave no block of old weights to requests that come later, nor, unless kept, to those that go on."""
        if self._running and update.kv_cache == "keep":
            self.salt = stamp
            return
        if not await self._llm.reset_prefix_cache(reset_running_requests=bool(self._running)):
            raise WeightSyncError("the prefix cache could not be reset: blocks of the old weights are in use")

    def _rpc(self, method: str, kwargs: dict[str, Any], limit: float) -> Awaitable[list[Any]]:
        return self._llm.collective_rpc(method, timeout=limit + _REPLY_SECONDS / 2, kwargs=kwargs)

    async def _phase(self, name: str, call: Awaitable[T], limit: float) -> T:
        try:
            return await answer(self._llm, call, limit + _REPLY_SECONDS)
        except Exception as exc:
            raise WeightSyncError(f"phase {name}: {exc}") from exc


def _update_info(update: WeightUpdate) -> dict[str, Any]:
    """The update in the plain types of vLLM's messages; CUDA handles travel pickled, one per bucket."""
    handles = update.payload.get("handles", ())
    return {
        "version": update.manifest.version,
        "epoch": update.epoch,
        "buckets": manifest_to_plain(update.manifest),
        "merges": merges_to_plain(update.manifest),
        "verify": update.verify,
        "timeout_seconds": update.timeout_seconds,
        "payload": {"handles": [pickle.dumps(handle) for handle in handles]} if handles else {},  # type: ignore[union-attr]
    }
