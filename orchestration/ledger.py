"""The ledger: one row per ended training group, appended durably; equal canonical ledgers mean equal histories."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration.watch.jsonl import append_rows, read_rows
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
        append_rows(self._path, ({**asdict(row), "incarnation": self._incarnation} for row in rows))
        self.counts.update(row.end_state.value for row in rows)


def read_ledger(run_path: Path) -> list[LedgerRow]:
    """Canonical rows in (branch, group_id) order: for each group the highest incarnation's.

    A torn last line (kill -9 in a write) is left out.
    """
    best: dict[tuple[int, int], tuple[int, LedgerRow]] = {}
    for fields in read_rows(run_path / FILE_NAME):
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
