"""A large run is browsed without being loaded: bounds on the time of a page and on the memory that pages take."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestration.watch.inspect.server import InspectServer
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run

pytestmark = pytest.mark.wall_clock

PATHS = (
    *("/", "/?sort=tokens", "/?text=question%203", "/group?role=train&step=1&group=3"),
    *("/compare", "/compare?a=0:0&b=0:1..20"),
)
GROUPS_PER_STEP, GROUP_SIZE = 64, 32


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("num_steps", [25, pytest.param(489, marks=pytest.mark.all)])
def test_pages_of_a_large_run_come_soon_and_take_little_memory(tmp_path: Path, num_steps: int) -> None:
    config = make_run(tmp_path / "run")
    answers = {row: ["7"] * 20 + ["3"] * (GROUP_SIZE - 20) for row in range(GROUPS_PER_STEP)}
    for step in range(num_steps):
        close_step(tmp_path / "run", config, step, answers, Role.TRAIN)
    before = resident_mib()
    server = InspectServer(tmp_path / "run")
    try:
        for path in (
            "/",
            "/?sort=tokens",
            "/?text=question%203",
            "/group?role=train&step=1&group=3",
            "/compare?a=0:0&b=0:1..20",
        ):
            start = time.monotonic()
            page = server.answer(path)
            assert page is not None and time.monotonic() - start < 60
        assert f"{num_steps * GROUPS_PER_STEP:,} groups" in (server.answer("/") or "")
    finally:
        server.server_close()
    assert resident_mib() - before < 150
