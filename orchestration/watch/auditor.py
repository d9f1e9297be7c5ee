"""The audit at work: scores closed groups against reference answers and writes only under `audit/`.

Besides `evaluate` nothing else sees reference answers. It runs in a process of its own, `orchestration.watch.audit`.

consumes: closed Parquet files.  waits for: the next one, or its driver's word.  unblocked by: the file system, stdin.
produces: rows of `audit/`: labels.jsonl (one per step), eval.jsonl (per evaluation), prompts.jsonl (per group),
thresholds.jsonl (per step and evaluation).
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.load import import_plugins
from configs.schema import RunConfig
from data.references import References, load_references
from orchestration.group_table import GroupFile, closed_files
from orchestration.run_dir import read_config
from orchestration.storage import storage_errors
from orchestration.watch.audit import FILES, FINISH, POLL_SECONDS, PROMPTS_FILE, THRESHOLDS_FILE
from orchestration.watch.audit_scores import PromptHistory, label_metrics
from orchestration.watch.evaluate import read_scored, summarize
from orchestration.watch.grade import Grader
from orchestration.watch.jsonl import append_rows, read_rows
from orchestration.watch.thresholds import threshold_row
from quorum.errors import QuorumError
from quorum.types import Role


class Auditor:
    """Scores each closed file once; a restarted one goes on where the last stopped."""

    def __init__(self, run_dir: Path, config: RunConfig) -> None:
        """Raises ConfigError for an unknown equivalence or plug-in, StorageError when `audit/` cannot be made."""
        self._run_dir, self._config = run_dir, config
        self._folder = run_dir / "audit"
        with storage_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
        import_plugins(config.run.plugins)
        self._grader = Grader(config.voting)
        self._references: dict[Role, References] = {}
        self._done = {
            (role, row["step"], row["branch"], row["incarnation"])
            for role, name in FILES.items()
            for row in read_rows(self._folder / name)
        }
        self._history = PromptHistory(read_rows(self._folder / PROMPTS_FILE))

    def poll(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Score the closed files not scored yet, in step order, until told to stop. Returns how many."""
        count = 0
        for role in FILES:
            for file in closed_files(self._run_dir, role).values():
                if (role, file.step, file.branch, file.incarnation) in self._done:
                    continue
                if should_stop():
                    return count
                self._score(file)
                count += 1
        return count

    def _score(self, file: GroupFile) -> None:
        place: dict[str, Any] = {"step": file.step, "branch": file.branch, "incarnation": file.incarnation}
        scores = read_scored(file.path, self._references_of(file.role), self._grader)
        prompts = self._history.add(place, file.role, scores)
        result = summarize(scores, self._config.run.seed) if file.role is Role.EVAL else label_metrics(scores)
        if prompts:
            append_rows(self._folder / PROMPTS_FILE, prompts)
            row = place | {"role": file.role.value} | threshold_row(scores)
            append_rows(self._folder / THRESHOLDS_FILE, [row])
        append_rows(self._folder / FILES[file.role], [place | result])
        self._done.add((file.role, *place.values()))

    def _references_of(self, role: Role) -> References:
        if role not in self._references:
            sources = self._config.evaluation.data if role is Role.EVAL else self._config.data.train
            self._references[role] = load_references(sources)
        return self._references[role]

    def close(self) -> None:
        """End the worker processes."""
        self._grader.close()


class DriverLine:
    """The driver's end of stdin: silent while it lives, "finish" when it is done, closed when it died."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._heard = b""
        self.is_closed = False

    def listen(self, seconds: float) -> None:
        """Wait up to `seconds` for word from the driver."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if ready:
            data = os.read(self._descriptor, 4096)
            self._heard += data
            self.is_closed = not data

    @property
    def is_finishing(self) -> bool:
        return FINISH in self._heard

    def has_died(self) -> bool:
        """Whether the driver went away without saying that it is done."""
        if not self.is_closed and not self.is_finishing:
            self.listen(0)
        return self.is_closed and not self.is_finishing


def follow(auditor: Auditor, line: DriverLine) -> None:
    """Score files as they close until the driver is done, or gone."""
    while not line.has_died():
        is_last_round = line.is_finishing
        auditor.poll(line.has_died)
        if is_last_round:
            return
        if not line.is_closed:
            line.listen(POLL_SECONDS)


def run(run_dir: Path, *, should_follow: bool) -> int:
    """Audit a run; returns the exit code. An error is one line on stderr."""
    try:
        auditor = Auditor(run_dir, read_config(run_dir))
        try:
            if should_follow:
                os.nice(5)
                follow(auditor, DriverLine(sys.stdin.fileno()))
            else:
                auditor.poll()
        finally:
            auditor.close()
    except QuorumError as error:
        sys.stderr.write(f"audit: {error}\n")
        return error.exit_code
    return 0
