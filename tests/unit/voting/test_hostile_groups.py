"""Thousands of hostile answers, group by group through the whole tally: nothing hangs, crashes or swells."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from quorum.types import RolloutGroup
from tests.hostile import hostile_texts
from tests.votes import section_of
from voting.background import each
from voting.groups import group_of_texts
from voting.tallier import Tallier

pytestmark = [pytest.mark.wall_clock, pytest.mark.stack, pytest.mark.timeout(200)]

NUM_TEXTS, K, OPEN_GROUPS = 5000, 32, 4
GROUP_SECONDS, MAX_GROWTH_MIB = 10.0, 150.0


def _resident_mib(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/statm").read_text().split()
        except OSError:
            continue
        total += int(words[1]) * 4096 / 2**20
    return total


def test_hostile_groups_stay_under_their_wall_deadline_and_leak_no_memory() -> None:
    texts = list(hostile_texts(NUM_TEXTS, seed=1))
    groups = [group_of_texts(i, texts[start : start + K]) for i, start in enumerate(range(0, NUM_TEXTS, K))]
    tallier = Tallier(
        section_of(
            equivalence="math_verify",
            service={"num_workers": 2, "cpu_seconds": 0.3, "group_seconds": GROUP_SECONDS},
        )
    )
    tallier.start()

    async def timed(group: RolloutGroup) -> float:
        began = time.monotonic()
        made = await tallier.tally(group)
        assert len(made.outcomes) == len(group.completions)
        return time.monotonic() - began

    async def tally_all() -> list[float]:
        first = await each(groups[:20], timed, OPEN_GROUPS)
        before = _resident_mib([os.getpid(), *tallier.pids])
        rest = await each(groups[20:], timed, OPEN_GROUPS)
        assert _resident_mib([os.getpid(), *tallier.pids]) - before < MAX_GROWTH_MIB
        return [*first, *rest]

    try:
        seconds = asyncio.run(tally_all())
        assert len(seconds) == -(-NUM_TEXTS // K)
        assert max(seconds) < GROUP_SECONDS + 1
        assert tallier.pool.num_replaced > 0, "some of it does run into the deadline"
    finally:
        tallier.stop()
