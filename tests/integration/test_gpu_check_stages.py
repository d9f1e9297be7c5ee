"""Stages of `make gpu-check` in their small form on a CPU: the same code gives figures, and a second call runs none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.run_helpers import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(200)]


def check(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=ROOT)


def test_small_stages_measure_on_a_cpu_and_are_not_run_twice(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    stages = ("--only", "transfer-ipc", "--only", "mfu-1.5b", "--only", "transfer-nccl")
    done = check(out, *stages)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["stages"]
    assert found["transfer-nccl"]["outcome"] == "skipped" and "CPU" in found["transfer-nccl"]["why"]
    update, transfer = found["mfu-1.5b"]["figures"], found["transfer-ipc"]["figures"]
    assert update["mfu"] > 0 and update["tokens_per_second"] > 0 and update["sequences"] == 4
    assert transfer["is_verified"] and transfer["backend"] == "gloo" and transfer["transfer_seconds"] > 0
    assert found["mfu-1.5b"]["place"]["versions"]["torch"]
    again = check(out, *stages)
    assert again.returncode == 0 and "mfu-1.5b: in" in again.stdout
    assert json.loads(out.read_text())["stages"]["mfu-1.5b"] == found["mfu-1.5b"]
