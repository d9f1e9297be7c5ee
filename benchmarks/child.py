"""A measured side in a process of its own: orders in, answers out, one JSON object per line, every wait bounded."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from quorum.errors import StageError


class Child:
    """`python -m module`, which reads orders from stdin and answers on stdout."""

    def __init__(self, name: str, module: str, env: Mapping[str, str]) -> None:
        """Start it. `name` says in errors which side it is; `env` is set over the parent's environment."""
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | dict(env),
        )

    def tell(self, order: Mapping[str, Any]) -> None:
        """Give an order; `answer` waits for what comes of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self, doing: str, timeout: float) -> dict[str, Any]:
        """Next answer. Raises StageError when the child died or is late."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline() if ready else ""
        if ready and not line:
            raise StageError(f"{self.name} ended while it was to '{doing}': {self._last_words()}")
        if not line:
            raise StageError(f"{self.name} did not answer '{doing}' within {timeout:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, order: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.tell(order)
        return self.answer(order["do"], timeout)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(timeout=10)
