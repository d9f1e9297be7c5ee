"""A measured side in a process of its own: orders in, answers out, one JSON object per line, every wait bounded."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from quorum.errors import StageError

READ_BYTES = 65_536


class Child:
    """`python -m module`, which reads orders from stdin and answers on stdout."""

    def __init__(self, name: str, module: str, env: Mapping[str, str]) -> None:
        """Start it. `name` says in errors which side it is; `env` is set over the parent's environment."""
        self.name = name
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=os.environ | dict(env),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._read = b""
        """What came and was not yet asked for: the system's pipe is looked at, so that nothing hides in a buffer."""

    def tell(self, order: Mapping[str, Any]) -> None:
        """Give an order; `answer` waits for what comes of it. Raises StageError when the child is dead."""
        unsent = memoryview(json.dumps(order).encode() + b"\n")
        try:
            while unsent:
                unsent = unsent[self._orders.write(unsent) :]
        except BrokenPipeError as exc:
            raise self._ended(order.get("do", "an order")) from exc

    def answer(self, doing: str, timeout: float) -> dict[str, Any]:
        """Next answer. Raises StageError when the child died or is late."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._read:
            if not select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise StageError(f"{self.name} did not answer '{doing}' within {timeout:.0f} s")
            more = os.read(self._answers.fileno(), READ_BYTES)
            if not more:
                raise self._ended(doing)
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, order: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.tell(order)
        return self.answer(order["do"], timeout)

    def _ended(self, doing: object) -> StageError:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return StageError(f"{self.name} ended while it was to '{doing}': {lines[-1] if lines else 'it said nothing'}")

    def stop(self) -> None:
        """Kill it, and close what led to it."""
        self._process.kill()
        self._process.wait(timeout=10)
        for stream in (self._orders, self._answers, self._errors):
            stream.close()
