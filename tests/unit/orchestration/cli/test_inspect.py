"""`quorum inspect` as a process: says where it serves, answers, and ends cleanly on Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run

COMMAND = [sys.executable, "-m", "orchestration", "inspect"]


@pytest.mark.timeout(120)
def test_the_command_serves_until_ctrl_c_and_a_port_in_use_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    close_step(run, make_run(run), 0, {0: ["7", "7", "3", None]}, Role.TRAIN)
    (run / "run.json").write_text("{}")
    with subprocess.Popen([*COMMAND, str(run), "--no-browser"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=30) as page:
                assert "1 of 1 groups" in page.read().decode()
            taken = url.rstrip("/").rsplit(":", 1)[1]
            second = subprocess.run(
                [*COMMAND, str(run), "--no-browser", "--port", taken], capture_output=True, text=True, timeout=60
            )
            assert second.returncode == 4 and "take another with --port" in second.stderr
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    made = subprocess.run([*COMMAND, str(tmp_path / "no-run")], capture_output=True, text=True, timeout=60)
    assert made.returncode == 3 and "no-run" in made.stderr and "Traceback" not in made.stderr
