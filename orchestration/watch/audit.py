"""The audit process and the driver's handle on it. The driver itself sees no reference answer: `auditor` does.

    python -m orchestration.watch.audit RUN_DIR            score what is closed now, then end
    python -m orchestration.watch.audit RUN_DIR --follow   go on until stdin closes (the driver died) or says "finish"

The audit never stops a run: when it fails, its results are missing and `failure` says why.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orchestration
from orchestration.group_table import closed_files
from orchestration.storage import storage_errors
from orchestration.watch.jsonl import read_rows, supersession
from orchestration.watch.metrics import METRICS
from quorum.types import Role

FILES = {Role.TRAIN: "labels.jsonl", Role.EVAL: "eval.jsonl"}
"""Under `audit/`: one row per scored file."""
PROMPTS_FILE = "prompts.jsonl"
THRESHOLDS_FILE = "thresholds.jsonl"
FINISH = b"finish\n"
POLL_SECONDS = 0.2


class AuditProcess:
    """A running `python -m orchestration.watch.audit RUN_DIR --follow`. It ends with the driver, however that ends."""

    def __init__(self, run_dir: Path, process: subprocess.Popen[bytes]) -> None:
        self._run_dir, self._process = run_dir, process

    @classmethod
    def start(cls, run_dir: str | Path, env: Mapping[str, str] | None = None) -> AuditProcess:
        """Start the audit of a run; does not wait for it.

        Args:
            run_dir: the run directory, with its config.yaml.
            env: further environment variables.

        Raises:
            StorageError: `audit/audit.log` cannot be written.
        """
        run_dir = Path(run_dir)
        root = str(Path(orchestration.__path__[0]).parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})}
        log = run_dir / "audit" / "audit.log"
        with storage_errors(log):
            log.parent.mkdir(exist_ok=True)
            with open(log, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "orchestration.watch.audit", str(run_dir), "--follow"],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
        return cls(run_dir, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def command(self) -> str:
        """What a user calls to have the closed files scored."""
        return f"`python -m orchestration.watch.audit {self._run_dir}`"

    @property
    def failure(self) -> str | None:
        """Why the audit ended too early, in one line; None while it runs or when it ended well."""
        code = self._process.poll()
        if not code:
            return None
        log = self._run_dir / "audit" / "audit.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
        return f"the audit ended with code {code}: {lines[-1] if lines else 'no message'} (see {log})"

    def wait_for(self, step: int, role: Role, timeout: float) -> dict[str, float] | None:
        """What the audit found in a closed step.

        Args:
            step: the step whose file was closed.
            role: Role.TRAIN for audit/* metrics, Role.EVAL for eval/* metrics.
            timeout: seconds to wait for the audit to get there.

        Returns:
            Metrics by registered name, those measured; empty when no prompt has a reference answer. None when the
            audit ended or the time is over.
        """
        row = self.wait_for_row(step, role, timeout)
        return None if row is None else _metrics_in(row)

    def wait_for_row(self, step: int, role: Role, timeout: float) -> dict[str, Any] | None:
        """Like `wait_for`, with all that the audit wrote of the step; see docs/formats.md for the columns."""
        deadline = time.monotonic() + timeout
        while True:
            has_ended = self._process.poll() is not None
            row = self._row_of(step, role)
            if row is not None:
                return row
            if has_ended or time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS)

    def _row_of(self, step: int, role: Role) -> dict[str, Any] | None:
        file = closed_files(self._run_dir, role).get(step)
        if file is None:
            return None
        rows = [row for row in read_rows(self._run_dir / "audit" / FILES[role]) if row["step"] == step]
        newest = max(rows, key=supersession, default=None)
        return newest if newest and supersession(newest) == (file.branch, file.incarnation) else None

    def stop(self, timeout: float) -> bool:
        """Let the audit score what is closed, then end it; kill it when that takes longer than `timeout` seconds.

        Returns:
            Whether it finished by itself without an error.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(FINISH)
            self._process.stdin.close()
        except (BrokenPipeError, ValueError):
            pass  # it has ended, or was stopped before
        try:
            return self._process.wait(timeout=timeout) == 0
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)
            return False


def _metrics_in(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(row[name]) for name in METRICS if row.get(name) is not None}


def main(arguments: list[str]) -> int:
    """Be the audit process; returns the exit code."""
    flags, paths = [a for a in arguments if a.startswith("-")], [a for a in arguments if not a.startswith("-")]
    if len(paths) != 1 or set(flags) - {"--follow"}:
        sys.stderr.write("usage: python -m orchestration.watch.audit RUN_DIR [--follow]\n")
        return 2
    from orchestration.watch.auditor import run

    return run(Path(paths[0]), should_follow=bool(flags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
