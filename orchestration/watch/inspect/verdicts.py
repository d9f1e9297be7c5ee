"""What the audit said of each group, by byte offset: read once as it grows, kept as one flag and one number a group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestration.watch.jsonl import supersession
from quorum.types import Role


class Verdict(NamedTuple):
    """Where a group's row of audit/prompts.jsonl starts, and whether its most common answer was right."""

    offset: int
    is_correct: bool


class Verdicts:
    """Rows of audit/prompts.jsonl by (role, step, branch, incarnation), then by group, since a prompt may come twice in
    a step; the last row counts."""

    def __init__(self, run: Path) -> None:
        self._path = run / "audit" / "prompts.jsonl"
        self._end = 0
        self._found: dict[tuple[str, int, int, int], dict[int, Verdict]] = {}

    def refresh(self) -> bool:
        """Read what was appended since the last call. Returns whether there was anything; a torn last line waits."""
        start = self._end
        if not self._path.is_file():
            return False
        with open(self._path, "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._add(line, self._end)
                self._end += len(line)
        return self._end != start

    def _add(self, line: bytes, offset: int) -> None:
        try:
            row = json.loads(line)
            place = (str(row["role"]), int(row["step"]), *supersession(row))
            self._found.setdefault(place, {})[int(row["group_id"])] = Verdict(offset, bool(row["is_correct"]))
        except (ValueError, KeyError, TypeError):
            return  # a line that a reader skips, as jsonl.read_rows does

    def of_step(self, role: Role, step: int, branch: int, incarnation: int) -> Mapping[int, Verdict]:
        """Verdicts on the groups of one closed file, by group id; empty while it is not audited."""
        return self._found.get((role.value, step, branch, incarnation), {})

    def row(self, verdict: Verdict) -> dict[str, Any]:
        """The whole row: reference, answer, average_accuracy, change."""
        with open(self._path, "rb") as file:
            file.seek(verdict.offset)
            return dict(json.loads(file.readline()))
