"""Ctrl-C and SIGTERM: during start they end the run at once; inside the loop they wait for a safe point."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from quorum.errors import Interrupted

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns signals into `Interrupted`, raised at once or, inside `deferred`, at the next `check`.

    A second signal is never deferred: a user who presses Ctrl-C twice wants out.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferring = False
        self._old: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for signum in HANDLED:
            self._old[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        if isinstance(exc, SystemError) and isinstance(exc.__cause__, Interrupted):
            raise exc.__cause__ from None  # raised inside Ray's compiled code, which wraps it

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        repeated = self.signum is not None
        self.signum = signum
        if not self._deferring or repeated:
            raise Interrupted(signum)

    def check(self) -> None:
        """Raise `Interrupted` when a signal has come. Called at safe points of the loop."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold signals back until `check`; the body calls it where stopping loses nothing."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Let nothing interrupt the body: saving and shutting down after a first signal."""
        current = {signum: signal.signal(signum, signal.SIG_IGN) for signum in HANDLED}
        try:
            yield
        finally:
            for signum, handler in current.items():
                signal.signal(signum, handler)
