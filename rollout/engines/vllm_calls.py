"""Calls to vLLM's engine process that always end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from quorum.errors import EngineDied, EngineTimeout

T = TypeVar("T")

_LOOK_SECONDS = 0.2
"""Between two looks at whether the process still lives."""


async def answer(llm: Any, call: Awaitable[T], seconds: float) -> T:
    """The answer of the engine process to a call.

    When the process dies vLLM leaves calls that are under way without an answer; here its death ends them.

    Args:
        llm: the AsyncLLM that was called.
        call: the call.
        seconds: how long to wait.

    Raises:
        EngineDied: the engine process is gone.
        EngineTimeout: there was no answer in time.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(call)
    deadline = loop.time() + seconds
    try:
        while True:
            left = deadline - loop.time()
            await asyncio.wait({task}, timeout=max(0.0, min(left, _LOOK_SECONDS)))
            if task.done():
                return await task
            if llm.errored:
                raise EngineDied("the engine process died")
            if left <= 0:
                raise EngineTimeout(f"no answer from the engine process within {seconds:g} s")
    except EngineDeadError as exc:
        raise EngineDied("the engine process died") from exc
    finally:
        task.cancel()
