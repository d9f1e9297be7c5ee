"""Prompt files that say of themselves where their ids and their references are: what `quorum data` writes.

The note stands in the Parquet file's metadata, so that a bare path suffices wherever a data source is named. What a
source sets itself wins. References are in a file of their own, apart from the prompts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from configs.schema import DataSource
from quorum.errors import DataError

METADATA_KEY = b"quorum.prepared"
ID_COLUMN, PROMPT_COLUMN, ANSWER_COLUMN = "id", "prompt", "answer"


@dataclass(frozen=True, slots=True)
class PreparedNote:
    """What a prepared prompt file says of itself."""

    name: str
    """Of the set inside prompt ids: subsets keep their parent's, so that labels and pass rates still fit."""
    references: str | None
    """File name of the references, beside the prompts; None: there are none."""

    def as_bytes(self) -> bytes:
        return json.dumps({"name": self.name, "references": self.references}, sort_keys=True).encode()


def read_note(path: str | Path) -> PreparedNote | None:
    """The note of a Parquet file; None for any other file, or where nothing is there.

    Raises:
        DataError: a note that this release does not understand.
    """
    if Path(path).suffix != ".parquet" or not Path(path).is_file():
        return None
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (OSError, pyarrow.ArrowException):
        return None  # its reader says what is wrong with it
    if METADATA_KEY not in metadata:
        return None
    try:
        return PreparedNote(**json.loads(metadata[METADATA_KEY]))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: its metadata {METADATA_KEY.decode()} is not what this release writes ({error}); prepare it again"
        ) from error


def resolved(source: DataSource) -> DataSource:
    """A source with what its file says of itself filled in: id column and references file, unless it sets them.

    References that the note names and that are not there are left out: prompts may travel without them. Those that the
    configuration names must be there.
    """
    note = read_note(source.path)
    if note is None:
        return source
    changes: dict[str, object] = {}
    if source.columns.id is None:
        changes["columns"] = source.columns.model_copy(update={"id": ID_COLUMN})
    if source.references is None and note.references is not None:
        beside = Path(source.path).parent / note.references
        changes["references"] = str(beside) if beside.is_file() else None
    return source.model_copy(update=changes)
