"""vLLM behind the Engine protocol: one AsyncLLM, its engine core and workers in processes of their own.

A group is k requests of one completion each, so that the prefix cache's hits are counted per completion and a
greedy group is possible. Works with vLLM 0.26 to 0.32.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import pickle
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import numpy as np

from quorum.errors import EngineDied, ResourceError, RolloutError, WeightSyncError
from quorum.registry import Options
from quorum.types import (
    Completion,
    FinishReason,
    Float32Array,
    GroupRequest,
    RolloutGroup,
    TransferInit,
    VersionSpan,
    WeightReceipt,
    WeightUpdate,
)
from rollout.engines.vllm_options import engine_arguments, set_environment
from rollout.ray_errors import first_line
from rollout.settings import EngineProbe, SamplerSettings
from rollout.stderr_tail import StderrTail
from rollout.transfer import register
from rollout.transfer.wire import manifest_to_plain

T = TypeVar("T")

_REPLY_SECONDS = 15.0
"""Time for an answer to come back after the engine process's own deadline has passed."""
_SETTLE_SECONDS = 0.2
"""Time for the last words of a dead engine process to arrive."""
_FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


class VllmEngine:
    """See `rollout.engine.Engine`."""

    def __init__(self, settings: SamplerSettings, options: Options) -> None:
        del options  # they are in settings.engine_options; the model only checks them
        self._settings = settings
        self._llm: Any = None
        self._tail: StderrTail | None = None
        self._serial = itertools.count()
        self._finished_tokens = 0
        self._stamps_versions = False

    @property
    def engine_version(self) -> str:
        import vllm

        return f"vllm {vllm.__version__}"

    async def start(self) -> None:
        """Start the engine processes. The call blocks the event loop: a sampler that starts has nothing else to do."""
        set_environment(self._settings, os.environ)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        register()
        self._tail = StderrTail()
        with self._tail as tail:
            try:
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(self._settings)))
            except Exception as exc:
                await asyncio.sleep(_SETTLE_SECONDS)
                raise ResourceError(tail.last_error_line() or f"{type(exc).__name__}: {first_line(exc)}") from exc
        self._stamps_versions = "weight_version" in inspect.signature(self._llm.finish_weight_update).parameters

    async def generate(self, request: GroupRequest, version: int) -> tuple[RolloutGroup, int]:
        """See `rollout.engine.Engine.generate`."""
        prompt_ids = request.prompt.token_ids.tolist()
        tasks = [
            asyncio.ensure_future(self._sample(prompt_ids, request, index))
            for index in range(request.sampling.num_completions)
        ]
        try:
            outputs = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        group = RolloutGroup(
            group_id=request.key.group_id,
            prompt_id=request.prompt.prompt_id,
            branch=request.key.branch,
            role=request.key.role,
            data_source=request.prompt.data_source,
            prompt_token_ids=request.prompt.token_ids,
            prompt_text=request.prompt.text,
            completions=tuple(_completion(i, output.outputs[0], version) for i, output in enumerate(outputs)),
            attempts=request.attempt + 1,
        )
        num_prefilled = sum(len(prompt_ids) - (output.num_cached_tokens or 0) for output in outputs)
        return group, num_prefilled

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """See `rollout.engine.Engine.score`."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False)
        output = await self._run(list(token_ids), params, "score")
        pairs = zip(token_ids[1:], output.prompt_logprobs[1:], strict=True)
        return np.array([entry[token].logprob for token, entry in pairs], dtype=np.float32)

    async def join_transfer(self, init: TransferInit) -> None:
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

    async def update_weights(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """See `rollout.engine.Engine.update_weights`."""
        llm, limit = self._llm, update.timeout_seconds
        seconds: dict[str, float] = {}

        async def phase(name: str, call: Awaitable[T], limit: float = limit) -> T:
            begin = time.perf_counter()
            result = await self._phase(name, call, limit)
            seconds[name] = time.perf_counter() - begin
            return result

        await phase("pause", llm.pause_generation(mode="keep", clear_cache=False))
        try:
            await phase("start", self._rpc("start_weight_update", {}, limit))
            all_buckets = limit * max(
                1, len(update.manifest.buckets)
            )  # the limit is one bucket's, and kept in the worker
            order = {"update_info": _update_info(update)}
            await phase("update", self._rpc("update_weights", order, all_buckets), all_buckets)
            await phase("finish", self._finish(update.manifest.version, limit))
            if not await phase("reset", llm.reset_prefix_cache()):
                raise WeightSyncError("the prefix cache could not be reset: blocks of the old weights are in use")
            receipts = await self._phase("receipt", self._rpc("quorum_transfer_receipt", {}, limit), limit)
        finally:
            await phase("resume", llm.resume_generation())
        checksums = receipts[0]["checksums"]
        if any(receipt["checksums"] != checksums for receipt in receipts):
            raise WeightSyncError("the engine's workers received different bytes")
        for part in receipts[0]["seconds"]:
            seconds[f"update_{part}"] = max(receipt["seconds"][part] for receipt in receipts)
        return WeightReceipt(
            sampler_id=sampler_id, version=update.manifest.version, checksums=checksums, seconds=seconds
        )

    def probe(self) -> EngineProbe:
        """Count tokens in the output processor: no message to the engine, no work per token."""
        if self._llm is None:
            return EngineProbe(tokens_generated=0, num_running=0)
        states = list(self._llm.output_processor.request_states.values())
        live = sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None)
        return EngineProbe(tokens_generated=self._finished_tokens + live, num_running=len(states))

    async def stop(self) -> None:
        """Shut the engine processes down; a second call does nothing."""
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.wait_for(asyncio.to_thread(llm.shutdown), self._settings.stop_seconds)

    async def _sample(self, prompt_ids: list[int], request: GroupRequest, index: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_completion_tokens,
            stop=list(sampling.stop),
            seed=request.seed + index,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        branch, role, group_id = request.key
        output = await self._run(prompt_ids, params, f"{branch}-{role}-{group_id}-{index}")
        self._finished_tokens += len(output.outputs[0].token_ids)
        return output

    async def _run(self, prompt_ids: list[int], params: Any, name: str) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        final = None
        try:
            stream = self._llm.generate({"prompt_token_ids": prompt_ids}, params, f"{name}-{next(self._serial)}")
            async for output in stream:
                final = output
        except EngineDeadError as exc:
            await asyncio.sleep(_SETTLE_SECONDS)
            cause = self._tail.last_error_line() if self._tail is not None else None
            raise EngineDied(f"the engine process died: {cause or first_line(exc)}") from exc
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            raise RolloutError(f"request {name}: {type(exc).__name__}: {exc}") from exc
        if final is None or not final.finished:
            raise RolloutError(f"request {name}: the engine ended it without a result")
        return final

    async def _finish(self, version: int, limit: float) -> None:
        await self._rpc("finish_weight_update", {}, limit)
        if self._stamps_versions:
            await self._llm.update_weight_version(str(version))

    def _rpc(self, method: str, kwargs: dict[str, Any], limit: float) -> Awaitable[list[Any]]:
        return self._llm.collective_rpc(method, timeout=limit + _REPLY_SECONDS / 2, kwargs=kwargs)

    async def _phase(self, name: str, call: Awaitable[T], limit: float) -> T:
        try:
            return await asyncio.wait_for(call, limit + _REPLY_SECONDS)
        except TimeoutError as exc:
            raise WeightSyncError(f"phase {name}: no answer from the engine within {limit:g} s") from exc
        except Exception as exc:
            raise WeightSyncError(f"phase {name}: {exc}") from exc


def _completion(index: int, output: Any, version: int) -> Completion:
    token_ids = np.asarray(output.token_ids, dtype=np.int32)
    logprobs = [entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)]
    reason = _FINISH_REASONS.get(output.finish_reason)
    if reason is None:
        raise RolloutError(f"completion {index} ended with {output.finish_reason!r}, expected stop, length or abort")
    return Completion(
        index=index,
        token_ids=token_ids,
        text=output.text,
        rollout_logprobs=np.asarray(logprobs, dtype=np.float32),
        finish_reason=reason,
        spans=(VersionSpan(version, 0),),
    )


def _update_info(update: WeightUpdate) -> dict[str, Any]:
    """The update in the plain types of vLLM's messages; CUDA handles travel pickled, one per bucket."""
    handles = update.payload.get("handles", ())
    return {
        "version": update.manifest.version,
        "epoch": update.epoch,
        "buckets": manifest_to_plain(update.manifest),
        "verify": update.verify,
        "timeout_seconds": update.timeout_seconds,
        "payload": {"handles": [pickle.dumps(handle) for handle in handles]} if handles else {},  # type: ignore[union-attr]
    }
