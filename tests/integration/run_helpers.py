"""Starting, killing and comparing whole runs in tests."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from orchestration.group_log import read_running
from orchestration.group_table import read_groups
from orchestration.ledger import LedgerRow, read_ledger

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 280.0


@dataclass(frozen=True)
class Finished:
    """A `quorum` process that ended."""

    code: int
    output: str
    seconds: float

    @property
    def result(self) -> dict[str, object]:
        line = [line for line in self.output.splitlines() if line.startswith("RESULT ")][-1]
        return json.loads(line.removeprefix("RESULT "))


def start(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`quorum ARGUMENTS` in a session of its own, so that nothing is signalled by accident."""
    command = [sys.executable, "-m", "orchestration", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], began: float, timeout: float = RUN_SECONDS) -> Finished:
    """Wait for the process; one that does not end in time is killed and fails the test."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=30)
        raise AssertionError(f"no end within {timeout:.0f} s:\n{output[-3000:]}") from None
    return Finished(process.returncode, output, time.monotonic() - began)


def quorum(*arguments: str, timeout: float = RUN_SECONDS, env: Mapping[str, str] | None = None) -> Finished:
    """Run `quorum ARGUMENTS` to its end."""
    began = time.monotonic()
    return finish(start(*arguments, env=env), began, timeout)


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, itself left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def alive(pids: list[int]) -> list[int]:
    """Those that still run (zombies do not)."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(pid)
    return running


def seconds_until_gone(pids: list[int], limit: float) -> float:
    """How long until every process is gone; fails after `limit` seconds naming those that stay."""
    began = time.monotonic()
    while time.monotonic() - began < limit:
        if not alive(pids):
            return time.monotonic() - began
        time.sleep(0.1)
    commands = {}
    for pid in alive(pids):
        commands[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    raise AssertionError(f"still there after {limit:.0f} s: {commands}")


def wait_for_ledger(run: Path, num_rows: int, limit: float) -> None:
    """Until the run has ended `num_rows` groups."""
    began = time.monotonic()
    while time.monotonic() - began < limit:
        if (run / "run.json").exists() and len(read_ledger(run)) >= num_rows:
            return
        time.sleep(0.1)
    raise AssertionError(f"{run} did not end {num_rows} groups within {limit:.0f} s")


def wait_for_running_groups(run: Path, step: int, limit: float) -> None:
    """Until groups of `step` are durable, while the step's rollout goes on."""
    began = time.monotonic()
    while time.monotonic() - began < limit:
        streams = list(run.glob(f"groups/*{step:06d}*.running.arrow"))
        if any(read_running(path) for path in streams if "eval" not in path.name):
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} had no finished group of step {step} within {limit:.0f} s")


@dataclass(frozen=True)
class History:
    """What must be equal between runs that should be one history."""

    ledger: list[LedgerRow]
    groups: list[tuple[object, ...]]
    weights: str


def history(run: Path) -> History:
    """Canonical ledger, tokens and rewards of every training group, and a hash of the final weights."""
    table: pa.Table = read_groups(run)
    columns = ["step", "group_id", "prompt_id", "completions", "answers", "pseudo_label", "rewards", "end_state"]
    rows = table.select(columns).sort_by("group_id").to_pylist()
    groups = [tuple(json.dumps(row[name], default=str) for name in columns) for row in rows]
    digest = hashlib.blake2b()
    for file in sorted((run / "model").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return History(read_ledger(run), groups, digest.hexdigest())
