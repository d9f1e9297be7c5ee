"""Waits that end on time although what they wait for has no deadline of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_within(seconds: float, call: Callable[[], T], what: str) -> T:
    """Make a blocking call in a thread of its own and give up on it after `seconds`.

    The thread of a call given up on lives until the call returns by itself; what it returns then is dropped.

    Raises:
        TimeoutError: the call did not return in time.
        Exception: what the call raised.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors.pop()
    if not results:
        raise TimeoutError(f"{what} took more than {seconds:g} s")
    return results.pop()


def poll(is_done: Callable[[], bool], seconds: float, what: str, *, every: float = 0.001) -> None:
    """Ask every `every` seconds until the answer is yes.

    Raises:
        TimeoutError: it was not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took more than {seconds:g} s")
        time.sleep(every)
