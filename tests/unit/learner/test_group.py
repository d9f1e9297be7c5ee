"""The driver's side of the ranks: whoever does not heed Ray's order to end is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

from learner.group import LearnerGroup  # noqa: E402
from tests.integration.learner_processes import make_config  # noqa: E402

pytestmark = pytest.mark.wall_clock


def test_a_stopped_process_is_killed_too(tmp_path: Path) -> None:
    rank = subprocess.Popen(["sleep", "60"])
    try:
        os.kill(rank.pid, signal.SIGSTOP)
        group = LearnerGroup(make_config(tmp_path, num_ranks=1), [], "cpu")
        group.processes = [{"pid": rank.pid}]
        began = time.monotonic()
        group.stop(4.0)
        assert rank.wait(timeout=1) == -signal.SIGKILL
        assert time.monotonic() - began < 10
    finally:
        rank.kill()
        rank.wait(timeout=10)
