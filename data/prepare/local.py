"""Rows of a local copy as they are: JSON, JSONL, Parquet or CSV, one file, a directory of them, or a `datasets` one."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.rows import DATASETS_MARKERS
from quorum.errors import DataError

Rows = list[dict[str, Any]]


def read_local(path: Path, split: str) -> tuple[Rows, dict[str, Any]]:
    """Read all rows of a file or directory.

    Args:
        path: a file, a directory of files of one format (sorted by name), or one that `datasets` saved.
        split: of a directory that `datasets` saved with splits.

    Returns:
        Rows in order, and what they were read from: names and hashes, no directory, no date.

    Raises:
        DataError: nothing there, several formats, or a file that is not what its name says.
    """
    if path.is_dir() and any((path / marker).exists() for marker in DATASETS_MARKERS):
        rows = _read_datasets(path, split)
        return rows, {"kind": "local", "files": [{"name": path.name, "rows_hash": _hash(rows)}]}
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in LOCAL_READERS)
    if not files:
        wanted = ", ".join(LOCAL_READERS)
        what = "no such file or directory" if not path.exists() else f"no file here ends in {wanted}"
        raise DataError(f"--from {path}: {what}")
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise DataError(f"--from {path}: files of several formats ({', '.join(suffixes)}); name one file")
    reader = LOCAL_READERS.get(files[0].suffix)
    if reader is None:
        raise DataError(f"--from {path}: expected a file that ends in {', '.join(LOCAL_READERS)}")
    rows, origin = [], []
    for file in files:
        read = _read_file(file, reader)
        rows += read
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        origin.append({"name": name, "rows_hash": _hash(read)})
    return rows, {"kind": "local", "files": origin}


def _read_file(path: Path, reader: Callable[[Path], Rows]) -> Rows:
    import pyarrow

    try:
        rows = reader(path)
    except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from error
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise DataError(f"{path} row {wrong}: expected an object with columns, got {type(rows[wrong]).__name__}")
    return rows


def _read_json(path: Path) -> Rows:
    """A list of objects, an object with one list of them, or an object per line."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        tree = json.loads(text)
    except json.JSONDecodeError:
        return _read_lines(path)
    if isinstance(tree, dict):
        lists = [value for value in tree.values() if isinstance(value, list)]
        tree = lists[0] if len(lists) == 1 and len(tree) == 1 else [tree]
    if not isinstance(tree, list):
        raise ValueError(f"expected a list of objects, got {type(tree).__name__}")
    return tree


def _read_lines(path: Path) -> Rows:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error.msg}") from error
    return rows


def _read_parquet(path: Path) -> Rows:
    from pyarrow import parquet

    rows: Rows = parquet.read_table(path).to_pylist()
    return rows


def _read_csv(path: Path) -> Rows:
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows: Rows = [dict(row) for row in reader]
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row has more or fewer fields than the header")
    return rows


def _read_datasets(path: Path, split: str) -> Rows:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"--from {path}: reading it needs the package `datasets` (pip install datasets)") from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--from {path}: not a directory that `datasets` saved: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"--from {path}: no split {split!r}; it has {', '.join(loaded)} (--split)")
        loaded = loaded[split]
    rows: Rows = loaded.to_list()
    return rows


def _hash(rows: Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


LOCAL_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""By the end of the file's name."""
