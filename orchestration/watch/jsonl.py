"""Append-only JSON lines: one durable row per line, a torn last line is cut off by the next writer and never read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestration.storage import storage_errors


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows and fsync. Numbers that are not finite become null: JSON has none. Raises StorageError."""
    data = "".join(json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in rows).encode()
    with storage_errors(path):
        with open(path, "ab+", buffering=0) as file:
            end = _whole_length(file.fileno())
            os.ftruncate(file.fileno(), end)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file.fileno(), view) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows; an empty list when there is no file."""
    return whole_rows(path.read_bytes()) if path.is_file() else []


def read_last_rows(path: Path, num_bytes: int) -> list[dict[str, Any]]:
    """Whole rows among the last `num_bytes` of a file; an empty list when there is no file."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
        file.seek(start)
        data = file.read()
    return whole_rows(data.partition(b"\n")[2] if start else data)


def whole_rows(data: bytes) -> list[dict[str, Any]]:
    """Rows of lines that end; a line that is no JSON object is left out."""
    rows = []
    for line in data.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def supersession(row: Mapping[str, Any]) -> tuple[int, int]:
    """Of several rows for one step, those with the highest (branch, incarnation) count."""
    return int(row.get("branch", 0)), int(row.get("incarnation", 0))


def current_rows(rows: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Rows that count, by step in step order: all of the highest (branch, incarnation) seen for that step."""
    best: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        held = best.get(row["step"])
        if held is None or supersession(row) > supersession(held[0]):
            best[row["step"]] = [row]
        elif supersession(row) == supersession(held[0]):
            held.append(row)
    return dict(sorted(best.items()))


def _whole_length(descriptor: int) -> int:
    """Bytes up to and including the last newline."""
    size = os.fstat(descriptor).st_size
    while size > 0:
        start = max(0, size - 65536)
        found = os.pread(descriptor, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
