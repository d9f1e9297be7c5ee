"""Overlap reports over files: what is counted, and what a cleaned set keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.prepare.overlap import OverlapOptions
from data.prepare.report import make_report, write_clean
from data.prepare.write import Example, content_keys, read_prepared, write_prepared
from quorum.errors import DataError


def write_set(path: Path, texts: list[str]) -> Path:
    keys = content_keys(texts)
    write_prepared(path, [Example(k, t, "unit", f"answer to {t}") for k, t in zip(keys, texts, strict=True)], {})
    return path


def test_a_cleaned_set_keeps_ids_order_and_references_of_what_is_left(tmp_path: Path) -> None:
    train = write_set(tmp_path / "train.parquet", ["one?", "two?", "ONE?", "three?"])
    test = write_set(tmp_path / "test.parquet", ["Three?", "four?"])
    report = make_report(train, [test], OverlapOptions())
    assert report.counts() == {"inside": {"exact": 1}, "test.parquet": {"exact": 1}}
    manifest = write_clean(report, tmp_path / "clean.parquet")
    clean, whole = read_prepared(tmp_path / "clean.parquet"), read_prepared(train)
    assert clean.examples == whole.examples[:2] and clean.name == "train.parquet"
    assert manifest["counts"] == report.counts() and manifest["cleaned_from"]["prompts_hash"]


def test_the_report_holds_prompts_and_no_references(tmp_path: Path) -> None:
    train = write_set(tmp_path / "train.parquet", ["one?", "one?"])
    text = json.dumps(make_report(train, [train], OverlapOptions()).as_json())
    assert "one?" in text and "answer to" not in text


def test_a_file_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        make_report(tmp_path / "none.parquet", [], OverlapOptions())
