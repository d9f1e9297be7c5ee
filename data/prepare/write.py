"""Writes a prepared set: prompts, references apart, and a manifest without dates, each whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.columns import DATA_SOURCE_COLUMN
from data.prepared import ANSWER_COLUMN, ID_COLUMN, METADATA_KEY, PROMPT_COLUMN, PreparedNote, read_note
from quorum.errors import DataError

MANIFEST_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a prepared set."""

    key: str
    """Stable inside the set; see `content_keys`."""
    prompt: str
    data_source: str
    answer: str | None
    """Reference; never written beside the prompt."""


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """A set of files that `quorum data` wrote."""

    name: str
    """Inside prompt ids."""
    examples: tuple[Example, ...]
    manifest: Mapping[str, Any]
    """Of the file; empty where it is gone."""


def content_keys(prompts: Sequence[str]) -> list[str]:
    """A key per prompt from its text alone (16 hex digits): the same whatever the order or the revision of the data.

    Equal texts are told apart by how often they came before: `KEY`, `KEY.1`, ...
    """
    seen: dict[str, int] = {}
    keys = []
    for prompt in prompts:
        key = hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()
        count = seen.get(key, 0)
        seen[key] = count + 1
        keys.append(f"{key}.{count}" if count else key)
    return keys


def prepared_paths(path: Path) -> tuple[Path, Path, Path]:
    """(prompts, references, manifest) that belong together. Raises DataError for a name that is no `.parquet`."""
    if path.suffix != ".parquet":
        raise DataError(f"{path}: prepared prompts are a Parquet file; give a name that ends in .parquet")
    return path, path.with_suffix(".references.parquet"), path.with_suffix(".manifest.json")


def write_prepared(
    path: Path, examples: Sequence[Example], provenance: Mapping[str, Any], *, name: str | None = None
) -> dict[str, Any]:
    """Write `NAME.parquet`, `NAME.references.parquet` (where there are references) and `NAME.manifest.json`.

    Args:
        path: of the prompts.
        examples: rows in order.
        provenance: where they come from; plain JSON values, no date.
        name: of the set inside prompt ids; None: the file's name.

    Returns:
        The manifest: provenance, rows and hashes of what the rows say (not of the files' bytes, which depend on the
        version of pyarrow).

    Raises:
        DataError: no rows, a key that occurs twice, or a place that cannot be written to.
    """
    prompts_path, references_path, manifest_path = prepared_paths(path)
    if not examples:
        raise DataError(f"{path}: nothing to write: no prompt is left")
    if len({one.key for one in examples}) != len(examples):
        raise DataError(f"{path}: keys of prompts must be unique")
    prompts = [{ID_COLUMN: one.key, PROMPT_COLUMN: one.prompt, DATA_SOURCE_COLUMN: one.data_source} for one in examples]
    references = [{ID_COLUMN: one.key, ANSWER_COLUMN: one.answer} for one in examples if one.answer is not None]
    note = PreparedNote(name or path.name, references_path.name if references else None)
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "name": note.name,
        **provenance,
        "num_prompts": len(prompts),
        "num_references": len(references),
        "prompts_hash": rows_hash(prompts),
        "references_hash": rows_hash(references) if references else None,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(prompts_path, lambda beside: _write_table(beside, prompts, note))
        if references:
            write_whole(references_path, lambda beside: _write_table(beside, references, None))
        else:
            references_path.unlink(missing_ok=True)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_whole(manifest_path, lambda beside: beside.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return manifest


def rows_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """blake2b-128 of rows in order, as JSON lines."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def read_prepared(path: Path) -> PreparedSet:
    """Read a prepared set back, references included where they are. For preparing more data, never for a run.

    Raises:
        DataError: the file is missing, was not written by `quorum data`, or is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    prompts_path, _, manifest_path = prepared_paths(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; `quorum data prepare` makes one")
    note = read_note(path)
    if note is None:
        raise DataError(f"{path}: not a file that `quorum data` wrote; take it in with `quorum data prepare --from`")
    try:
        rows = parquet.read_table(prompts_path).to_pylist()
        beside = path.parent / note.references if note.references else None
        answers = {}
        if beside is not None and beside.is_file():
            answers = {row[ID_COLUMN]: row[ANSWER_COLUMN] for row in parquet.read_table(beside).to_pylist()}
        manifest = json.loads(manifest_path.read_text(encoding="utf-8")) if manifest_path.is_file() else {}
        examples = [
            Example(row[ID_COLUMN], row[PROMPT_COLUMN], row[DATA_SOURCE_COLUMN], answers.get(row[ID_COLUMN]))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a prepared set: {error}") from error
    return PreparedSet(note.name, tuple(examples), manifest)


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], note: PreparedNote | None) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = list(rows[0])
    table = pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})
    if note is not None:
        table = table.replace_schema_metadata({METADATA_KEY: note.as_bytes()})
    parquet.write_table(table, path, compression="zstd")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and rename it. Raises OSError."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
