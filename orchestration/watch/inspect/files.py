"""Reading single columns, row groups and rows of closed group files; nothing here reads a whole run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestration.group_table import GROUP_SCHEMA
from quorum.errors import DataError

_TOKENS = "completions.list.element.token_ids"
_PROMPT = "prompt_text"


@contextmanager
def group_file(path: Path) -> Iterator[pq.ParquetFile]:
    """An open group file. Raises DataError when it cannot be read, also by the body."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a group file: {error}") from error


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Whole columns of GROUP_SCHEMA; null where a file of an earlier release lacks one. Raises DataError."""
    with group_file(path) as file:
        rows = file.read(columns=list(names), use_threads=False)
    for name in names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(len(rows), GROUP_SCHEMA.field(name).type))
    return rows


def read_row(path: Path, row: int) -> dict[str, Any]:
    """One group with all its columns; only its row group is decoded. Raises DataError."""
    with group_file(path) as file:
        for number in range(file.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            if row < size:
                found = file.read_row_group(number, use_threads=False).slice(row, 1).to_pylist()[0]
                return {name: found.get(name) for name in GROUP_SCHEMA.names}
            row -= size
    raise DataError(f"{path} has no such group; reload the page: the step may have been done again")


def mean_tokens(path: Path) -> np.ndarray:
    """[rows] float32, mean completion length in tokens; NaN for a group without completions. Raises DataError."""
    parts: list[np.ndarray] = []
    with group_file(path) as file:
        for number in range(file.num_row_groups):
            column = file.read_row_group(number, columns=[_TOKENS], use_threads=False).column("completions")
            for chunk in column.chunks:
                lengths = pc.list_value_length(pc.struct_field(chunk.flatten(), "token_ids")).to_numpy(
                    zero_copy_only=False
                )
                parents = pc.list_parent_indices(chunk).to_numpy()
                counts = np.bincount(parents, minlength=len(chunk))
                with np.errstate(invalid="ignore", divide="ignore"):
                    parts.append((np.bincount(parents, lengths, len(chunk)) / counts).astype(np.float32))
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def prompts_with(path: Path, text: str) -> np.ndarray:
    """[rows] bool, whose prompt contains `text`, capitals or not. Raises DataError."""
    column = read_columns(path, [_PROMPT]).column(_PROMPT)
    found = pc.match_substring(column, text, ignore_case=True)
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)


def prompt_starts(path: Path, rows: Sequence[int], limit: int) -> list[str]:
    """The first `limit` characters of the prompts of `rows`. Raises DataError."""
    column = read_columns(path, [_PROMPT]).column(_PROMPT)
    return [(column[row].as_py() or "")[:limit] for row in rows]
