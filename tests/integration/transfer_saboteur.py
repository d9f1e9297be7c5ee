"""A plug-in for tests of weight transfers whose parties die: SIGKILL at a named moment of a transfer.

`SABOTAGE` in the environment names a directory. A file WHO-PHASE there ends the first process that finds it: WHO is
sampler, rank0 or rank1; PHASE is init (the epoch is joined), start, update (bytes are on their way) or finish.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learner.exchange import BucketExchange
from learner.transfer import GlooSender
from learner.transfer_lane import TransferLane
from rollout.engines.vllm_update import VllmUpdater
from tests.integration.saboteur import VARIABLE

_SAMPLER_PHASES = {"join": "init", "start": "start", "update": "update", "finish": "finish"}
"""First word of the updater's phase -> ours."""


def hit(who: str, phase: str, seconds: float = 0.0) -> None:
    """End this process if a file wants that."""
    folder, name = Path(os.environ[VARIABLE]), f"{who}-{phase}"
    try:
        (folder / name).rename(folder / f"taken-{name}")
    except FileNotFoundError:
        return
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if not seconds:
        signal.pause()


def _before(owner: type, method: str, strike: Callable[[Any], None]) -> None:
    original = getattr(owner, method)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        strike(self)
        return original(self, *args, **kwargs)

    setattr(owner, method, wrapped)


def _after(owner: type, method: str, strike: Callable[[Any], None]) -> None:
    original = getattr(owner, method)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        strike(self)
        return result

    setattr(owner, method, wrapped)


def _patch_sampler() -> None:
    original = VllmUpdater._phase

    async def phase(self: Any, name: str, call: Any, limit: float) -> Any:
        ours = _SAMPLER_PHASES.get(name.split()[0])
        if ours is not None:
            hit("sampler", ours, 0.02 if ours == "update" else 0.0)
        return await original(self, name, call, limit)

    VllmUpdater._phase = phase  # type: ignore[method-assign]


def _rank(self: Any) -> str:
    return f"rank{self.settings.rank}"


_before(TransferLane, "join_transfer", lambda lane: hit("rank0", "init"))
# Rank 1 has no part in the joining: it dies while rank 0 waits for the others.
_after(TransferLane, "publish", lambda lane: hit("rank1", "init", 0.05) if lane.settings.rank == 1 else None)
_before(TransferLane, "send", lambda lane: hit(_rank(lane), "start"))
_after(GlooSender, "broadcast", lambda sender: hit("rank0", "update"))
_before(BucketExchange, "hand_over", lambda exchange: hit(f"rank{exchange.rank}", "update"))
_after(TransferLane, "send", lambda lane: hit(_rank(lane), "finish"))
_patch_sampler()
