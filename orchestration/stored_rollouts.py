"""Rollouts that lie on disk, for voting again: a run, its group files, or any table of completions.

Reading groups never reads an answer: `Stored.references` does, from the files again, once the votes are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.problems import nearest
from configs.schema import ColumnNames, DataSource, RunConfig, VotingSection
from data.columns import Row, row_key
from data.prepared import resolved
from data.prompts import source_identities, view_id
from data.references import References, load_references
from data.rows import read_rows
from orchestration.group_table import closed_files
from orchestration.run_dir import read_config
from quorum.errors import DataError
from quorum.types import Completion, Role, RolloutGroup
from voting.groups import group_of_texts

ID_COLUMN, TEXTS_COLUMN = "prompt_id", "completions"
"""Columns of a table that is not a group file; `answer` holds the reference."""
_GROUP_COLUMNS = ("step", "branch", "role", "group_id", "prompt_id", "data_source", "prompt_text")
_TEXT_FIELDS = ("index", "text", "finish_reason")
_TOKEN_FIELDS = ("token_ids", "rollout_logprobs")


@dataclass(slots=True)
class Rollouts:
    """Groups as read; P of them."""

    groups: list[RolloutGroup] = field(default_factory=list)
    """[P]"""
    steps: list[int] = field(default_factory=list)
    """[P] groups of one step are one batch; 0 for all of a table."""
    extractors: list[str | None] = field(default_factory=list)
    """[P] extractor that the data names for the group's prompts; None: the configured one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where rollouts lie and how they were voted on; nothing but the configuration is read yet."""

    paths: tuple[Path, ...]
    """Group files, or one table."""
    is_table: bool
    config: RunConfig | None
    """Of the run they belong to."""

    @property
    def section(self) -> VotingSection:
        """How the run votes, or a run's defaults. Labels from elsewhere are not at hand: the groups vote themselves."""
        voting = self.config.voting if self.config else VotingSection()
        return voting.model_copy(update={"labels": VotingSection().labels})

    @property
    def plugins(self) -> tuple[str, ...]:
        return self.config.run.plugins if self.config else ()

    def read(self, *, with_tokens: bool) -> Rollouts:
        """Read all groups.

        Args:
            with_tokens: whether to read token ids and log-probabilities; without them they are empty.

        Raises:
            DataError: a file cannot be read, or a row of a table is not a group.
        """
        if self.is_table:
            groups = list(_table_groups(self.paths[0]))
            return Rollouts(groups, [0] * len(groups), [None] * len(groups))
        found = Rollouts()
        for path in self.paths:
            for step, group in _file_groups(path, with_tokens):
                found.groups.append(group)
                found.steps.append(step)
        own = extractors_by_prompt(self.config)
        found.extractors = [own.get(group.prompt_id) for group in found.groups]
        return found

    def references(self, groups: Sequence[RolloutGroup], answers: Path | None = None) -> References:
        """Reference answers by the groups' prompt ids, after the vote.

        Args:
            groups: those that `read` returned.
            answers: a file of them: with a column prompt_id, or the run's data file, or rows in the order of the table.
                None takes the table's column `answer`, or the data that the run's configuration names.

        Raises:
            DataError: a file cannot be read, or `answers` has no answer to any of the prompts.
        """
        if answers is None and not self.is_table:
            return _run_references(self.config, groups) if self.config else References({})
        source = _table_source(answers or self.paths[0])
        read = load_references([source])
        [identity] = source_identities([source])
        is_data = not self.is_table and source.columns.id is None
        found = {
            group.prompt_id: read.get(
                group.prompt_id if is_data else view_id(identity, group.prompt_id, is_paraphrase=False)
            )
            for group in groups
        }
        known = {prompt_id: answer for prompt_id, answer in found.items() if answer is not None}
        if answers is not None and not known:
            raise DataError(
                f"{answers}: none of its {len(read)} answers belongs to a prompt of these rollouts; it needs columns "
                f"{ID_COLUMN} and answer, or the rows (and, for a run, the name) of the data that the prompts came from"
            )
        return References(known)


def find_rollouts(paths: Sequence[Path]) -> Stored:
    """Tell what the paths are.

    Args:
        paths: a run directory or its name under runs/; closed group files; or one Parquet or JSONL table.

    Raises:
        DataError: nothing is there, or it is none of these.
        ConfigError: the run's configuration is wrong.
    """
    if len(paths) == 1 and (folder := _folder(paths[0])) is not None:
        return _find_run(folder)
    for path in paths:
        if path.is_dir():
            raise DataError(f"{path} is a directory: give one run, or files")
        if not path.is_file():
            raise DataError(_nothing_there(path))
        if path.suffix == ".arrow":
            raise DataError(f"{path}: the log of a step that is not closed; only closed group files can be voted on")
    are_groups = [_is_group_file(path) for path in paths]
    if all(are_groups):
        return Stored(tuple(paths), False, _config_beside(paths))
    if len(paths) > 1:
        odd = paths[are_groups.index(False)]
        raise DataError(f"{odd} is not a closed group file of a run; several files must all be")
    return Stored((paths[0],), True, None)


def _folder(path: Path) -> Path | None:
    if path.is_dir():
        return path
    named = Path("runs") / path
    return named if not path.exists() and named.is_dir() else None


def _find_run(folder: Path) -> Stored:
    if not (folder / "groups").is_dir():
        raise DataError(f"{folder} is no run directory: it has no groups/; for files in it, name the files")
    files = closed_files(folder, Role.TRAIN)
    if not files:
        raise DataError(f"run {folder} has no closed training step yet")
    return Stored(tuple(files[step].path for step in sorted(files)), False, read_config(folder))


def _nothing_there(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    near = nearest(path.name, sorted(entry.name for entry in folder.iterdir()))
    return f"{path}: no such file or run" + (f"; did you mean {folder / near}?" if near else "")


def _is_group_file(path: Path) -> bool:
    if path.suffix not in (".parquet", ".pq"):
        return False
    try:
        return b"quorum.groups" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def _config_beside(paths: Sequence[Path]) -> RunConfig | None:
    """Configuration of the one run whose groups/ holds all the files."""
    folders = {path.absolute().parent for path in paths}
    home = folders.pop()
    is_run = not folders and home.name == "groups" and (home.parent / "config.yaml").is_file()
    return read_config(home.parent) if is_run else None


def _file_groups(path: Path, with_tokens: bool) -> Iterator[tuple[int, RolloutGroup]]:
    """(step, group) of one group file; of its columns only those that a vote can depend on are read."""
    fields = (*_TEXT_FIELDS, *(_TOKEN_FIELDS if with_tokens else ()))
    columns = [*_GROUP_COLUMNS, *(f"completions.list.element.{name}" for name in fields)]
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from _batch_groups(batch, with_tokens)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a group file: {error}") from error


def _batch_groups(batch: pa.RecordBatch, with_tokens: bool) -> Iterator[tuple[int, RolloutGroup]]:
    completions = batch.column("completions")
    flat, offsets = completions.values, completions.offsets.to_numpy()
    texts, reasons = flat.field("text").to_pylist(), flat.field("finish_reason").to_pylist()
    indices = flat.field("index").to_pylist()
    tokens = _arrays(flat.field("token_ids"), np.int32) if with_tokens else None
    logprobs = _arrays(flat.field("rollout_logprobs"), np.float32) if with_tokens else None
    no_tokens, no_logprobs = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
    for row, values in enumerate(batch.select(_GROUP_COLUMNS).to_pylist()):
        made = tuple(
            Completion(
                index=indices[i],
                token_ids=tokens[i] if tokens else no_tokens,
                text=texts[i],
                rollout_logprobs=logprobs[i] if logprobs else no_logprobs,
                finish_reason=reasons[i],
                spans=(),
            )
            for i in range(offsets[row], offsets[row + 1])
        )
        step, role = values.pop("step"), Role(values.pop("role"))
        yield step, RolloutGroup(**values, role=role, prompt_token_ids=no_tokens, completions=made)


def _arrays(lists: pa.ListArray, dtype: type[np.generic]) -> list[np.ndarray]:
    """Each list as a view of the batch's memory."""
    values = lists.values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    offsets = lists.offsets.to_numpy()
    return [values[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]


def extractors_by_prompt(config: RunConfig | None) -> dict[str, str]:
    """Extractor of every prompt whose data source names one; reads ids alone."""
    found: dict[str, str] = {}
    for sources in (config.data.train, config.evaluation.data) if config else ():
        for source, identity in zip(map(resolved, sources), source_identities(sources), strict=True):
            if source.extractor is None:
                continue
            for row in read_rows(source, frozenset([source.columns.id] if source.columns.id else [])):
                for is_paraphrase in (False, True) if source.columns.paraphrase else (False,):
                    found[view_id(identity, row_key(row, source), is_paraphrase=is_paraphrase)] = source.extractor
    return found


def _run_references(config: RunConfig, groups: Sequence[RolloutGroup]) -> References:
    found: dict[str, str] = {}
    for is_held_out, sources in ((False, config.data.train), (True, config.evaluation.data)):
        asked = {group.prompt_id for group in groups if (group.role is Role.EVAL) == is_held_out}
        read = load_references(sources) if asked else References({})
        found |= {prompt_id: answer for prompt_id in asked if (answer := read.get(prompt_id)) is not None}
    return References(found)


def _table_source(path: Path) -> DataSource:
    """A table as a data source; its rows go by their prompt_id where they have one."""
    probe = DataSource(path=str(path))
    first = next(iter(read_rows(probe, frozenset())))
    return DataSource(path=str(path), columns=ColumnNames(id=ID_COLUMN if ID_COLUMN in first.columns else None))


def _table_groups(path: Path) -> Iterator[RolloutGroup]:
    source = _table_source(path)
    for number, row in enumerate(read_rows(source, frozenset([ID_COLUMN, TEXTS_COLUMN]))):
        yield group_of_texts(number, _texts(row), row_key(row, source))


def _texts(row: Row) -> list[str]:
    value: Any = row.values.get(TEXTS_COLUMN)
    if value is None:
        near = nearest(TEXTS_COLUMN, row.columns)
        hint = f"; did you mean {near!r} (rename it)?" if near and near != TEXTS_COLUMN else ""
        raise DataError(f"{row.where}: no column {TEXTS_COLUMN!r} (it has {', '.join(row.columns)}){hint}")
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise DataError(f"{row.where}: {TEXTS_COLUMN} must be a list of at least one text, got {str(value)[:60]!r}")
    return [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in value]
