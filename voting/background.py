"""An event loop in a thread of its own: asynchronous work for callers that have no loop, or one that already runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from quorum.errors import VotingError

S = TypeVar("S")
T = TypeVar("T")

STOP_SECONDS = 5.0
"""For cancelled work to end, and for the thread."""


class BackgroundLoop:
    """Runs coroutines for synchronous callers until stopped. Its thread never keeps the interpreter alive."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="voting", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], patience: float, progress: Callable[[], int] = lambda: 0) -> T:
        """What a coroutine returns; it is cancelled when the caller is interrupted.

        Args:
            work: to run on the loop.
            patience: seconds without progress that the caller bears.
            progress: a number that grows as the work goes on.

        Raises:
            VotingError: `patience` seconds passed without progress, once or twice in a row.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        seen = progress()
        try:
            while not concurrent.futures.wait([future], timeout=patience).done:
                now = progress()
                if now == seen:
                    raise VotingError(
                        f"the vote made no progress in {patience:g} s after {now} groups: code on its event loop does "
                        "not return (a user's vote rule?)"
                    )
                seen = now
            return future.result(timeout=0)
        finally:
            future.cancel()

    def cancel_all(self, timeout: float = STOP_SECONDS) -> None:
        """Cancel everything that runs and wait until it has ended. Raises VotingError when it does not."""
        self.run(_cancel_others(timeout), 2 * timeout)

    def stop(self) -> None:
        """End the thread. Work that is still there is dropped."""
        self._loop.call_soon_threadsafe(self._loop.call_soon, self._loop.stop)  # what is cancelled ends before
        self._thread.join(STOP_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others(timeout: float) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=timeout)


async def each(
    items: Sequence[S],
    work: Callable[[S], Coroutine[Any, Any, T]],
    at_once: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[T]:
    """`work` on every item, at most `at_once` of them at a time, begun in order.

    Args:
        items: [n]
        work: the coroutine function.
        at_once: >= 1.
        on_done: called after each.

    Returns:
        [n] in the order of `items`. The first error ends all of it.
    """
    results: dict[int, T] = {}
    waiting = iter(enumerate(items))

    async def consume() -> None:
        for index, item in waiting:
            results[index] = await work(item)
            on_done()
            await asyncio.sleep(0)  # work that asks nobody leaves room for others, and for being cancelled

    consumers = [asyncio.ensure_future(consume()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*consumers)
    finally:
        for consumer in consumers:
            consumer.cancel()
    return [results[index] for index in range(len(items))]
