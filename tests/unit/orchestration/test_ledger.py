"""The ledger: append-only on disk, canonical when read."""

from __future__ import annotations

from pathlib import Path

from orchestration.ledger import FILE_NAME, Ledger, LedgerRow, ledger_hash, read_ledger
from quorum.types import EndState


def row(group_id: int, *, step: int = 0, tokens: str = "aa") -> LedgerRow:
    return LedgerRow(
        branch=0,
        group_id=group_id,
        step=step,
        end_state=EndState.TRAINED,
        versions=(step,),
        tokens_hash=tokens,
        reward_hash="bb",
        prompt_id="cc",
    )


def test_rows_come_back_in_group_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, incarnation=0)
    ledger.append([row(1), row(0)])
    ledger.append([row(2, step=1)])
    assert [r.group_id for r in read_ledger(tmp_path)] == [0, 1, 2]
    assert ledger.counts["trained"] == 3


def test_a_later_incarnation_supersedes_the_rows_it_repeats(tmp_path: Path) -> None:
    Ledger(tmp_path, incarnation=0).append([row(0, tokens="old"), row(1, tokens="kept")])
    Ledger(tmp_path, incarnation=1).append([row(0, tokens="new")])
    assert [r.tokens_hash for r in read_ledger(tmp_path)] == ["new", "kept"]


def test_a_repeated_history_has_the_same_hash(tmp_path: Path) -> None:
    Ledger(tmp_path, incarnation=0).append([row(0), row(1)])
    before = ledger_hash(read_ledger(tmp_path))
    Ledger(tmp_path, incarnation=1).append([row(1)])
    assert ledger_hash(read_ledger(tmp_path)) == before
    Ledger(tmp_path, incarnation=2).append([row(1, tokens="other")])
    assert ledger_hash(read_ledger(tmp_path)) != before


def test_a_torn_last_line_is_left_out_and_the_next_writer_starts_a_fresh_one(tmp_path: Path) -> None:
    Ledger(tmp_path, incarnation=0).append([row(0), row(1)])
    file = tmp_path / FILE_NAME
    file.write_text(file.read_text()[:-20])
    assert [r.group_id for r in read_ledger(tmp_path)] == [0]
    Ledger(tmp_path, incarnation=1).append([row(1), row(2)])
    assert [r.group_id for r in read_ledger(tmp_path)] == [0, 1, 2]
