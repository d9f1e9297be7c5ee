"""Which column of a row holds what: dotted names, row keys and the name of the data set.

Nothing here reads an answer; `data.references` looks that column up on its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from configs.schema import DataSource
from quorum.errors import DataError

ANSWER_COLUMNS = ("answer", "reward_model.ground_truth")
"""Tried in this order when `columns.answer` is not set; the second is verl's layout."""
DATA_SOURCE_COLUMN = "data_source"
"""Tried when `columns.data_source` is not set; also verl's name."""
MAX_LISTED_COLUMNS = 12


class Row(NamedTuple):
    """One row of a data set, restricted to the columns its reader asked for."""

    where: str
    """For messages: "train.jsonl line 3"."""
    key: str
    """Stable key of the row inside its source when no id column is set."""
    values: Mapping[str, Any]
    columns: tuple[str, ...]
    """Names of all columns there, read or not; for messages."""


class Missing:
    """Type of MISSING, told apart from a null in the data."""


MISSING = Missing()


def lookup(values: Mapping[str, Any], name: str) -> Any:
    """Value of a column; dots reach into nested records unless a column has that very name.

    Returns:
        The value, which may be None, or MISSING.
    """
    if name in values:
        return values[name]
    value: Any = values
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def top_level(names: Iterable[str]) -> frozenset[str]:
    """Columns to read so that every dotted name can be looked up."""
    return frozenset(part for name in names for part in (name, name.partition(".")[0]))


def prompt_columns(source: DataSource) -> frozenset[str]:
    """Top-level columns that prompts are made of.

    Raises:
        DataError: the answer column is used as something else too, so that it would reach the prompts.
    """
    columns = source.columns
    roles = {
        "prompt": columns.prompt,
        "paraphrase": columns.paraphrase,
        "id": columns.id,
        "data_source": columns.data_source,
    }
    for role, name in roles.items():
        if name is not None and name in (columns.answer, *ANSWER_COLUMNS):
            raise DataError(
                f"{source.path}: columns.{role} names the answer column {name!r}; "
                "answers must stay out of prompts, ids and data set names, so choose another column"
            )
    wanted = [name for name in roles.values() if name is not None]
    return top_level([*wanted, DATA_SOURCE_COLUMN])


def require(row: Row, name: str, setting: str) -> Any:
    """Value of a column that must be there and not null.

    Raises:
        DataError: names the row, the columns there and the nearest one.
    """
    value = lookup(row.values, name)
    if value is MISSING:
        raise DataError(f"{row.where}: no column {name!r} (setting columns.{setting}); {_describe(row.columns, name)}")
    if value is None:
        raise DataError(f"{row.where}: column {name!r} (setting columns.{setting}) is empty")
    return value


def _describe(columns: tuple[str, ...], name: str) -> str:
    listed = ", ".join(columns[:MAX_LISTED_COLUMNS]) + (", ..." if len(columns) > MAX_LISTED_COLUMNS else "")
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    return f"it has {listed or 'none'}" + (f"; did you mean {near[0]!r}?" if near else "")


def row_key(row: Row, source: DataSource) -> str:
    """The id column's value, or the row's place in its source.

    Raises:
        DataError: the id is missing, or neither a string nor an integer.
    """
    if source.columns.id is None:
        return row.key
    value = require(row, source.columns.id, "id")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{row.where}: id {source.columns.id!r} must be a string or an integer, got {value!r}")
    return str(value)


def data_source_name(row: Row, source: DataSource) -> str:
    """Name of the data set a row belongs to: its column, or the path's name.

    Raises:
        DataError: the configured column is missing or is not a string.
    """
    configured = source.columns.data_source
    value = require(row, configured, "data_source") if configured else lookup(row.values, DATA_SOURCE_COLUMN)
    if value is MISSING or value is None:
        return path_name(source.path)
    if not isinstance(value, str) or not value:
        raise DataError(f"{row.where}: data source must be a non-empty string, got {value!r}")
    return value


def path_name(path: str) -> str:
    """`dir/math.jsonl` -> "math", `openai/gsm8k:main` -> "gsm8k", `reasoning_gym:chain_sum` -> "chain_sum"."""
    if path.startswith("reasoning_gym:"):
        return path.partition(":")[2]
    name = PurePath(path.rstrip("/")).name.partition(":")[0]
    return name.partition(".")[0] or name
