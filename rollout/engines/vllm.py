"""vLLM behind the Engine protocol: one AsyncLLM, its engine core and workers in processes of their own.

A group is k requests of one completion each, so that the prefix cache's hits are counted per completion, single
completions can be stopped, and a greedy group is possible. Works with vLLM 0.26 to 0.32.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from quorum.errors import EngineDied, EngineTimeout, ResourceError, RolloutError
from quorum.registry import Options
from quorum.types import (
    Completion,
    FinishReason,
    Float32Array,
    GroupKey,
    GroupRequest,
    RolloutGroup,
    TransferInit,
    WeightReceipt,
    WeightUpdate,
)
from rollout.engines.completion_text import completion_text
from rollout.engines.completions import Load, RunningCompletion, group_of, settled_loads, version_spans
from rollout.engines.vllm_calls import answer
from rollout.engines.vllm_options import PROFILES, engine_arguments, set_environment
from rollout.engines.vllm_update import VllmUpdater
from rollout.ray_errors import first_line
from rollout.settings import EngineProbe, SamplerSettings
from rollout.stderr_tail import StderrTail
from rollout.transfer import register

_LOG = logging.getLogger(__name__)
_SETTLE_SECONDS = 0.2
"""Time for the last words of a dead engine process to arrive."""
_END_SECONDS = 15.0
"""Time for completions that were told to end."""
_WARM_UP_TOKENS = 4
_WARM_UP_SECONDS = 300.0
"""For the first tokens of all; the sampler's start has a deadline of its own."""
_SLEEP_SECONDS = 120.0
"""Time for giving up the device's memory or taking it back."""
_FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


class VllmEngine:
    """See `rollout.engine.Engine`."""

    def __init__(self, settings: SamplerSettings, options: Options) -> None:
        del options  # they are in settings.engine_options; the model only checks them
        self._settings = settings
        self._llm: Any = None
        self._tokenizer: Any = None
        self._updater: VllmUpdater | None = None
        self._tail: StderrTail | None = None
        self._serial = itertools.count()
        self._running: dict[str, RunningCompletion] = {}
        self._finished_tokens = 0
        self._stops: set[asyncio.Task[None]] = set()

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
                self._tokenizer = self._llm.get_tokenizer()
                self._updater = VllmUpdater(self._llm, self._running, self._settings.initial_version)
                await self._updater.start()
                await self._warm_up()
            except Exception as exc:
                await asyncio.sleep(_SETTLE_SECONDS)
                raise ResourceError(tail.last_error_line() or f"{type(exc).__name__}: {first_line(exc)}") from exc

    async def _warm_up(self) -> None:
        """Draw a few tokens: an engine's first ones take seconds, which a sampler that is ready should not."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=_WARM_UP_TOKENS, temperature=1.0, seed=0, logprobs=0, ignore_eos=True)
        await answer(self._llm, self._run([0] * _WARM_UP_TOKENS, params, "warm-up"), _WARM_UP_SECONDS)

    async def generate(
        self, request: GroupRequest, version: int, on_completion: Callable[[Completion], None] | None = None
    ) -> tuple[RolloutGroup, int]:
        """See `rollout.engine.Engine.generate`."""
        # Known before anything is awaited: weights may change before vLLM has heard of it.
        names = {self._admit(request.key, index, version): index for index in request.drawn}
        tasks = [asyncio.ensure_future(self._sample(request, name, on_completion)) for name in names]
        try:
            drawn = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_END_SECONDS)
            for name in names:
                self._running.pop(name, None)
        group = group_of(request, [completion for completion, _ in drawn])
        return group, sum(len(request.prompt.token_ids) - num_cached for _, num_cached in drawn)

    def stop_completions(self, key: GroupKey, indices: Collection[int]) -> None:
        """See `rollout.engine.Engine.stop_completions`."""
        names = [name for name, one in self._running.items() if one.key == key and one.index in indices]
        for name in names:
            self._running[name].is_stopped = True
        if names:
            task = asyncio.ensure_future(self._stop(names))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def abandon(self) -> None:
        """See `rollout.engine.Engine.abandon`.

        Raises:
            EngineDied: the engine process is gone, and what ran in it with it.
            EngineTimeout: it does not answer.
        """
        for completion in self._running.values():
            completion.is_abandoned = True
        await answer(self._llm, self._end(list(self._running)), _END_SECONDS)
        # Its answer comes after the engine process has handled the aborts.
        await answer(self._llm, self._started().resume(), _END_SECONDS)

    async def score(self, token_ids: Sequence[int]) -> Float32Array:
        """See `rollout.engine.Engine.score`."""
        from vllm import SamplingParams

        if self._started().is_paused:
            raise RolloutError("no score: the weights are undefined since an update failed")
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False)
        output = await self._run(list(token_ids), params, f"score-{next(self._serial)}")
        pairs = zip(token_ids[1:], output.prompt_logprobs[1:], strict=True)
        return np.array([entry[token].logprob for token, entry in pairs], dtype=np.float32)

    async def check(self, seconds: float) -> None:
        """See `rollout.engine.Engine.check`. vLLM's own check reads a flag; this one asks every worker."""
        try:
            await answer(self._llm, self._llm.collective_rpc("check_health", timeout=seconds), seconds)
        except RolloutError:
            raise
        except Exception as exc:
            raise EngineTimeout(f"a worker of the engine did not answer: {first_line(exc)}") from exc

    async def join_transfer(self, init: TransferInit) -> None:
        """See `rollout.engine.Engine.join_transfer`."""
        await self._started().join(init)

    async def update_weights(self, update: WeightUpdate, sampler_id: str) -> WeightReceipt:
        """See `rollout.engine.Engine.update_weights`."""
        return await self._started().update(update, sampler_id)

    def probe(self) -> EngineProbe:
        """Count tokens in the output processor: no message to the engine, no work per token."""
        if self._llm is None:
            return EngineProbe(tokens_generated=0, num_running=0)
        states = list(self._llm.output_processor.request_states.values())
        live = sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None)
        return EngineProbe(tokens_generated=self._finished_tokens + live, num_running=len(states))

    async def sleep(self) -> None:
        """See `rollout.engine.Engine.sleep`."""
        if self._gives_memory_up():
            await answer(self._llm, self._llm.sleep(level=2), _SLEEP_SECONDS)

    async def wake(self) -> None:
        """See `rollout.engine.Engine.wake`."""
        if self._gives_memory_up():
            await answer(self._llm, self._llm.wake_up(), _SLEEP_SECONDS)

    async def stop(self) -> None:
        """Shut the engine processes down; a second call does nothing."""
        llm, self._llm, self._updater = self._llm, None, None
        if llm is not None:
            await asyncio.wait_for(asyncio.to_thread(llm.shutdown), self._settings.stop_seconds)

    def _started(self) -> VllmUpdater:
        if self._updater is None:
            raise ResourceError("the engine is not started")
        return self._updater

    def _gives_memory_up(self) -> bool:
        return self._settings.shares_device and PROFILES[self._settings.device].can_sleep

    def _admit(self, key: GroupKey, index: int, version: int) -> str:
        """Request id of a new completion, which samples with the weights held."""
        name = f"{key.branch}-{key.role}-{key.group_id}-{index}-{next(self._serial)}"
        self._running[name] = RunningCompletion(key, index, [Load(self._started().stamp, version, 0)])
        return name

    async def _sample(
        self, request: GroupRequest, name: str, on_completion: Callable[[Completion], None] | None
    ) -> tuple[Completion, int]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        running, sampling = self._running[name], request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_completion_tokens,
            stop=list(sampling.stop),
            seed=request.seed + running.index,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=bool(sampling.stop),  # what ends at a string needs vLLM to read along
        )
        try:
            output = await self._run(request.prompt.token_ids.tolist(), params, name)
        finally:
            self._running.pop(name, None)
        self._finished_tokens += len(output.outputs[0].token_ids)
        if running.is_abandoned:
            raise RolloutError(f"request {name} was abandoned")
        completion = self._completion(running, output.outputs[0], request)
        if on_completion is not None:
            on_completion(completion)
        return completion, output.num_cached_tokens or 0

    async def _run(self, prompt_ids: list[int], params: Any, name: str) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt: dict[str, Any] = {"prompt_token_ids": prompt_ids}
        if (salt := self._started().salt) is not None:
            prompt["cache_salt"] = salt
        final = None
        try:
            async for output in self._llm.generate(prompt, params, name):
                final = output
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            await asyncio.sleep(_SETTLE_SECONDS)
            # Its death also shows as whatever its broken connection raises.
            if isinstance(exc, EngineDeadError) or self._llm is None or self._llm.errored:
                cause = self._tail.last_error_line() if self._tail is not None else None
                raise EngineDied(f"the engine process died: {cause or first_line(exc)}") from exc
            raise RolloutError(f"request {name}: {type(exc).__name__}: {exc}") from exc
        if final is None or not final.finished:
            raise RolloutError(f"request {name}: the engine ended it without a result")
        return final

    async def _stop(self, names: list[str]) -> None:
        try:
            await answer(self._llm, self._end(names), _END_SECONDS)
        except RolloutError as exc:
            _LOG.warning("completions that need not go on were not stopped: %s", exc)

    async def _end(self, names: list[str]) -> None:
        """Abort until they are gone: one that is just being handed over is not known to vLLM yet."""
        while left := [name for name in names if name in self._running]:
            await self._llm.abort(left)
            await asyncio.sleep(0.005)

    def _completion(self, running: RunningCompletion, output: Any, request: GroupRequest) -> Completion:
        reason = _FINISH_REASONS.get(output.finish_reason)
        if reason is None or (reason == "abort" and not running.is_stopped):
            raise RolloutError(
                f"completion {running.index} ended with {output.finish_reason!r}, expected stop or length"
            )
        token_ids = list(output.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(token_ids, output.logprobs or (), strict=True)]
        reported = [(span.version, span.start) for span in getattr(output, "weight_versions", None) or ()]
        loads = settled_loads(running, len(token_ids), reported, self._started().versions)
        return Completion(
            index=running.index,
            token_ids=np.asarray(token_ids, dtype=np.int32),
            text=output.text if request.sampling.stop else self._text(request, token_ids, reason),
            rollout_logprobs=np.asarray(logprobs, dtype=np.float32),
            finish_reason=reason,
            spans=version_spans(loads),
        )

    def _text(self, request: GroupRequest, token_ids: list[int], reason: FinishReason) -> str:
        without_end = token_ids[:-1] if reason == "stop" else token_ids
        return completion_text(self._tokenizer, request.prompt.token_ids.tolist(), without_end)
