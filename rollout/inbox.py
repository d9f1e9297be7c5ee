"""Answers of Ray calls, brought to one thread: no reference is asked for twice, and none is waited for."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

Then = Callable[[Any, BaseException | None], None]
"""What to do with (value, error) of a call; one of them is None."""


class Inbox:
    """Ray's own thread puts answers in as they come; `take_in` handles them in the caller's.

    Its cost per answer does not grow with the number of calls that are out, as that of `ray.wait` does.
    """

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[tuple[Then, Any]] = queue.SimpleQueue()

    def expect(self, ref: Any, then: Then) -> None:
        """Have `then(value, error)` run by `take_in` once the reference is there."""
        ref.future().add_done_callback(lambda future: self._answers.put((then, future)))

    def take_in(self, seconds: float) -> None:
        """Handle what has come; waits `seconds` at most for the first answer."""
        try:
            then, future = self._answers.get(timeout=seconds) if seconds > 0 else self._answers.get_nowait()
            while True:
                error = future.exception(timeout=0)
                then(None if error is not None else future.result(timeout=0), error)
                then, future = self._answers.get_nowait()
        except queue.Empty:
            return
