"""The ledger: one row per ended training group, appended durably; equal canonical ledgers mean equal histories."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration.run_dir import storage_errors
from quorum.errors import DataError
from quorum.types import EndState

FILE_NAME = "ledger.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """How one training group ended. No sampler, attempt or time: those may differ between equal histories."""

    branch: int
    group_id: int
    step: int
    end_state: EndState
    versions: tuple[int, ...]
    """Policy versions that sampled it."""
    tokens_hash: str
    """`RolloutGroup.content_hash`: tokens and their logprobs."""
    reward_hash: str
    """Hash of rewards and train mask; empty for a dropped group."""
    prompt_id: str


class Ledger:
    """Append-only rows in `ledger.jsonl`; a resumed run repeats steps, and the later incarnation's rows win."""

    def __init__(self, run_path: Path, incarnation: int) -> None:
        self._path = run_path / FILE_NAME
        self._incarnation = incarnation
        self.counts: Counter[str] = Counter()

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """Write a step's rows and fsync. Raises StorageError."""
        lines = "".join(json.dumps({**asdict(row), "incarnation": self._incarnation}) + "\n" for row in rows)
        with storage_errors(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.counts.update(row.end_state.value for row in rows)


def read_ledger(run_path: Path) -> list[LedgerRow]:
    """Canonical rows in (branch, group_id) order: for each group the highest incarnation's.

    A torn last line (kill -9 in a write) is left out. Raises DataError for any other unreadable line.
    """
    best: dict[tuple[int, int], tuple[int, LedgerRow]] = {}
    lines = (run_path / FILE_NAME).read_text(encoding="utf-8").split("\n") if (run_path / FILE_NAME).exists() else []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            fields = json.loads(line)
        except ValueError as exc:
            if number >= len(lines):
                break
            raise DataError(f"{run_path / FILE_NAME}:{number} is not JSON ({exc})") from exc
        incarnation = fields.pop("incarnation")
        fields["end_state"] = EndState(fields["end_state"])
        fields["versions"] = tuple(fields["versions"])
        row = LedgerRow(**fields)
        key = (row.branch, row.group_id)
        if key not in best or best[key][0] <= incarnation:
            best[key] = (incarnation, row)
    return [best[key][1] for key in sorted(best)]


def ledger_hash(rows: Iterable[LedgerRow]) -> str:
    """One hash of a canonical ledger (32 hex digits)."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(asdict(row), sort_keys=True).encode())
    return digest.hexdigest()
