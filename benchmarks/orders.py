"""The child's end of `benchmarks.child`: orders by name, answers in JSON, nothing else on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Say = Callable[[Mapping[str, Any]], None]
"""Writes one answer."""


def open_channel() -> Say:
    """What writes answers to stdout; from now on whatever else is printed goes to stderr, and cannot mix with them."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    return say


def serve(side: Any) -> None:
    """Until stdin closes, call the method of `side` that an order's "do" names, with the order and a `Say`."""
    say = open_channel()
    for line in sys.stdin:
        order = json.loads(line)
        say(getattr(side, order["do"])(order, say))
