"""Rows of a data source, whatever its format: JSONL, Parquet, `datasets` directory, hub name, generated task.

Reads files only; which column means what is `data.columns`' business. JSONL needs nothing but the standard
library, Parquet needs pyarrow, the others import their package when used.
"""

from __future__ import annotations

import difflib
import glob
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs.schema import ColumnNames, DataSource
from data.columns import Row
from data.reasoning_gym_source import PREFIX, generate_rows
from quorum.errors import DataError

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
DATASETS_MARKERS = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Any of these makes a directory one that `datasets` saved."""
BATCH_ROWS = 1024


def read_rows(source: DataSource, wanted: frozenset[str]) -> Iterator[Row]:
    """Rows of a source in file order, at most `source.size` of them.

    Args:
        source: Where and in which format.
        wanted: Top-level columns to read; others are left out of `Row.values`.

    Raises:
        DataError: the source is missing, unreadable, or has no rows.
    """
    rows = READERS[source_format(source)](source, wanted)
    is_empty = True
    for row in itertools.islice(rows, source.size):
        is_empty = False
        yield row
    if is_empty:
        raise DataError(f"{source.path}: the data has no rows")


def source_format(source: DataSource) -> str:
    """Format of a source; `auto` goes by the path.

    Raises:
        DataError: nothing is there, or what is there has no known format.
    """
    if source.format != "auto":
        return source.format
    if source.path.startswith(PREFIX):
        return "reasoning_gym"
    path = Path(source.path)
    if path.is_dir():
        if any((path / marker).exists() for marker in DATASETS_MARKERS):
            return "datasets"
        raise DataError(
            f"{source.path}: a directory that `datasets` did not save; for the files in it give a glob such as "
            f"{source.path.rstrip('/')}/*.parquet"
        )
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if path.exists() or glob.has_magic(source.path):
        raise DataError(
            f"{source.path}: cannot tell the format from the name; set format to jsonl, parquet or datasets"
        )
    if _looks_like_hub_name(source.path):
        return "hub"
    raise DataError(_no_such_file(source.path))


def _looks_like_hub_name(path: str) -> bool:
    return not path.startswith((".", "/", "~")) and path.count("/") <= 1 and not Path(path).suffix


def _no_such_file(path: str) -> str:
    from data.prepare.catalog import CATALOG

    parent, name = Path(path).parent, Path(path).stem
    if name in CATALOG and path.endswith(".parquet"):
        return f"{path}: no such file; make it with `quorum data prepare {name} --out {parent}`"
    if not parent.is_dir():
        return f"{path}: no such file; the directory {parent} does not exist either"
    near = difflib.get_close_matches(Path(path).name, sorted(p.name for p in parent.iterdir()), n=1, cutoff=0.6)
    return f"{path}: no such file" + (f"; did you mean {parent / near[0]}?" if near else "")


def _matching_files(source: DataSource) -> list[Path]:
    """The file, or what its glob matches in sorted order."""
    if not glob.has_magic(source.path) or Path(source.path).exists():
        path = Path(source.path)
        if not path.is_file():
            raise DataError(f"{path}: a directory, not a file" if path.is_dir() else _no_such_file(source.path))
        return [path]
    files = [Path(name) for name in sorted(glob.glob(source.path, recursive=True)) if Path(name).is_file()]
    if not files:
        raise DataError(f"{source.path}: no file matches this pattern")
    return files


def _file_rows(
    source: DataSource, wanted: frozenset[str], read: Callable[[Path, frozenset[str]], Iterator[Row]]
) -> Iterator[Row]:
    """Rows of one or many files; with a glob each row's key starts with its file's path."""
    is_glob = glob.has_magic(source.path)
    for path in _matching_files(source):
        try:
            for row in read(path, wanted):
                yield row._replace(key=f"{path.as_posix()}:{row.key}") if is_glob else row
        except OSError as exc:
            raise DataError(f"{path}: cannot be read: {_one_line(exc)}") from exc


def _read_jsonl(path: Path, wanted: frozenset[str]) -> Iterator[Row]:
    index = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                values = json.loads(line)
            except UnicodeDecodeError as exc:
                raise DataError(f"{where}: not UTF-8 text: {_one_line(exc)}") from exc
            except json.JSONDecodeError as exc:
                raise DataError(f"{where}: not JSON ({exc.msg} at column {exc.colno}); one object per line") from exc
            if not isinstance(values, dict):
                raise DataError(f"{where}: a row must be a JSON object, got {type(values).__name__}")
            yield Row(where, str(index), {k: v for k, v in values.items() if k in wanted}, tuple(values))
            index += 1


def _read_parquet(path: Path, wanted: frozenset[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            index = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=[name for name in columns if name in wanted]):
                # A batch without any column still counts its rows.
                for values in batch.to_pylist() or [{} for _ in range(batch.num_rows)]:
                    yield Row(f"{path} row {index}", str(index), values, columns)
                    index += 1
    except pyarrow.ArrowException as exc:
        raise DataError(f"{path}: not a readable Parquet file: {_one_line(exc)}") from exc


def _read_datasets_directory(source: DataSource, wanted: frozenset[str]) -> Iterator[Row]:
    datasets = _import_datasets(source)
    if not Path(source.path).is_dir():
        raise DataError(f"{source.path}: no such directory")
    try:
        loaded = datasets.load_from_disk(source.path)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{source.path}: not a directory that `datasets` saved: {_one_line(exc)}") from exc
    if isinstance(loaded, datasets.DatasetDict):
        if source.split not in loaded:
            raise DataError(f"{source.path}: no split {source.split!r}; it has {', '.join(loaded)}")
        loaded = loaded[source.split]
    yield from _dataset_rows(source, loaded, wanted)


def _read_hub(source: DataSource, wanted: frozenset[str]) -> Iterator[Row]:
    """A hub name, or `NAME:CONFIGURATION` for a data set that has several."""
    datasets = _import_datasets(source)
    name, _, configuration = source.path.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None, split=source.split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as exc:
        raise DataError(
            f"{source.path}: neither a file here nor a data set that the hub gives out (split {source.split!r}): "
            f"{_one_line(exc)}"
        ) from exc
    yield from _dataset_rows(source, loaded, wanted)


def _dataset_rows(source: DataSource, dataset: Any, wanted: frozenset[str]) -> Iterator[Row]:
    columns = tuple(dataset.column_names)
    kept = [name for name in columns if name in wanted]
    narrowed = dataset.select_columns(kept)
    for index in range(len(dataset)):
        yield Row(f"{source.path} row {index}", str(index), narrowed[index] if kept else {}, columns)


def _read_generated(source: DataSource, wanted: frozenset[str]) -> Iterator[Row]:
    """Entries of a reasoning-gym task as columns `prompt` and `answer`; its metadata never leaves the generator."""
    if source.columns != ColumnNames():
        raise DataError(f"{source.path}: a generated task has no columns to name; remove `columns`")
    options = json.dumps(source.task_options, sort_keys=True)
    for index, entry in enumerate(generate_rows(source)):
        values = {"prompt": entry["question"], "answer": entry["answer"]}
        kept = {name: value for name, value in values.items() if name in wanted}
        yield Row(f"{source.path} entry {index}", f"{index}/{source.seed}/{options}", kept, ("prompt", "answer"))


def _import_datasets(source: DataSource) -> Any:
    try:
        import datasets
    except ImportError as exc:
        raise DataError(
            f"{source.path}: reading it needs the package `datasets`; install quorum-srt[gpu] or give JSONL or Parquet"
        ) from exc
    return datasets


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


READERS: dict[str, Callable[[DataSource, frozenset[str]], Iterator[Row]]] = {
    "jsonl": lambda source, wanted: _file_rows(source, wanted, _read_jsonl),
    "parquet": lambda source, wanted: _file_rows(source, wanted, _read_parquet),
    "datasets": _read_datasets_directory,
    "hub": _read_hub,
    "reasoning_gym": _read_generated,
}
"""Format -> reader(source, wanted columns) -> rows in order. The contract test runs over it."""
