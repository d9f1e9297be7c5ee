"""A deadline for calls of libraries that know none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from quorum.errors import ResourceError

T = TypeVar("T")


def call_within(seconds: float, call: Callable[[], T], what: str) -> T:
    """Run `call` in a thread of its own, which is left behind when it takes longer.

    Raises:
        ResourceError: no result within `seconds`; names `what`.
        BaseException: whatever `call` raises.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(exc)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(timeout=seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise ResourceError(f"{what} did not answer within {seconds:g} s")
    return outcome[0]
