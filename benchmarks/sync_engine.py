"""A receiver of `quorum bench sync` with an engine: the sampler's class itself, without Ray around it.

Runs as a child (`python -m benchmarks.sync_engine`), see `benchmarks.orders`.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.orders import Say, serve

SECONDS = 120.0
COMPLETIONS = 8
"""That run while weights are swapped."""
TOKENS_BEFORE, TOKENS_AFTER = 24, 8
"""Tokens of each that are waited for on either side of the swap."""
WATCH_SECONDS = 0.001


class EngineReceiver:
    """Answers `start`, `join`, `receive` and `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._sampler: Any = None
        self._group_ids = itertools.count()
        self._version = 0

    def start(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Start the engine on a model, and let it make its first tokens, which are slow."""
        from rollout.sampler import Sampler, SamplerSettings

        settings = SamplerSettings(
            sampler_id="bench", model=order["model"], max_model_len=512, kv_cache_gib=0.25, initial_version=0
        )
        self._sampler = Sampler(settings)
        self._loop.run_until_complete(self._sampler.start())
        self._loop.run_until_complete(self._sampler.generate(self._request(max_tokens=4)))
        return {"ok": True}

    def join(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Join a membership epoch."""
        from quorum.types import TransferInit

        init = TransferInit(
            backend="gloo",
            epoch=order["epoch"],
            host="127.0.0.1",
            port=order["port"],
            world_size=order["world_size"],
            rank_offset=order["rank"],
            timeout_seconds=SECONDS,
        )
        self._loop.run_until_complete(self._sampler.join_transfer(init))
        return {"ok": True}

    def receive(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """Take a version; with `running` under completions that go on."""
        update = self._receive_running if order["running"] else self._receive_idle
        return self._loop.run_until_complete(update(order, say))

    def stop(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        """End the engine."""
        self._loop.run_until_complete(self._sampler.stop())
        return {"ok": True}

    async def _receive_idle(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        say({"waiting": True})
        return {"seconds": await self._update(order)}

    async def _receive_running(self, order: dict[str, Any], say: Say) -> dict[str, Any]:
        marks = [(time.monotonic(), (await self._sampler.probe()).tokens_generated)]
        watch = asyncio.ensure_future(self._watch(marks))
        group = asyncio.ensure_future(self._sampler.generate(self._request(max_tokens=400)))
        await self._reach(marks, marks[0][1] + COMPLETIONS * TOKENS_BEFORE)
        say({"waiting": True})
        began = time.monotonic()
        seconds = await self._update(order)
        ended = time.monotonic()
        await self._reach(marks, marks[-1][1] + COMPLETIONS * TOKENS_AFTER)
        watch.cancel()
        await self._sampler.abandon()
        await asyncio.wait([group], timeout=SECONDS)
        group.exception()  # that it was abandoned
        return {"seconds": seconds, "stall": stall_seconds([at for at, _ in marks[1:]], began, ended)}

    async def _update(self, order: dict[str, Any]) -> dict[str, float]:
        from quorum.types import WeightManifest, WeightUpdate
        from rollout.transfer.wire import buckets_from_plain

        self._version += 1
        manifest = WeightManifest(version=self._version, incarnation=0, buckets=buckets_from_plain(order["buckets"]))
        update = WeightUpdate(
            manifest=manifest,
            epoch=order["epoch"],
            verify=False,
            timeout_seconds=SECONDS,
            keeps_requests=order["running"],
            kv_cache=order["kv_cache"],
        )
        receipt = await self._sampler.update_weights(update)
        return dict(receipt.seconds)

    async def _watch(self, marks: list[tuple[float, int]]) -> None:
        """Write down when the number of tokens grew."""
        while True:
            tokens = (await self._sampler.probe()).tokens_generated
            if tokens > marks[-1][1]:
                marks.append((time.monotonic(), tokens))
            await asyncio.sleep(WATCH_SECONDS)

    async def _reach(self, marks: list[tuple[float, int]], num_tokens: int) -> None:
        async with asyncio.timeout(SECONDS):
            while marks[-1][1] < num_tokens:
                await asyncio.sleep(WATCH_SECONDS)

    def _request(self, max_tokens: int) -> Any:
        import numpy as np

        from quorum.types import GroupKey, GroupRequest, Prompt, Role, SamplingSettings, group_seed

        key = GroupKey(0, Role.TRAIN, next(self._group_ids))
        tokens = np.arange(3, 19, dtype=np.int32)
        return GroupRequest(
            key=key,
            prompt=Prompt(prompt_id="bench", data_source="bench", token_ids=tokens, text=""),
            sampling=SamplingSettings(
                num_completions=COMPLETIONS, temperature=1.0, top_p=1.0, max_completion_tokens=max_tokens
            ),
            seed=group_seed(0, key),
            required_version=self._version,
            allows_newer=True,
        )


def stall_seconds(marks: Sequence[float], began: float, ended: float) -> float:
    """The longest time without a token that touches an update, less the usual time between two.

    Args:
        marks: when the number of tokens grew, in seconds, ascending; some before the update and one after it.
        began: of the update.
        ended: of the update.
    """
    gaps = list(itertools.pairwise(marks))
    touching = [later - earlier for earlier, later in gaps if later > began and earlier < ended]
    usual = [later - earlier for earlier, later in gaps if later <= began or earlier >= ended]
    return max(touching) - statistics.median(usual)


if __name__ == "__main__":
    serve(EngineReceiver())
