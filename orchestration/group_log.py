"""The durable log of a run's groups: what was generated once is never generated again.

A finished group, with others that waited, is appended to an Arrow IPC stream and fsynced; when its step ends, all
groups of the step are written with their votes and rewards as one Parquet file. After a kill -9 every whole record of
the stream is readable; a failed write leaves all earlier ones in place. `GroupLogWriter` runs as one Ray actor.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.group_table import (
    GROUP_SCHEMA,
    GroupFile,
    StepRecord,
    file_stem,
    group_at,
    holds_group,
    key_at,
    list_group_files,
    read_file,
    tally_at,
    tally_batch,
    to_batch,
)
from orchestration.storage import fsync_dir, storage_errors
from quorum.errors import DataError, StorageError
from quorum.types import GroupKey, Role, RolloutGroup, ScoredGroup, Tally

ROWS_PER_ROW_GROUP = 32
"""Groups written at a time: bounds the memory that closing a step needs."""
REPEATED = (Role.EVAL, Role.PROBE)
"""Roles whose groups have the same ids each time: in an evaluation an id is its prompt's index."""
_LOGPROBS = "completions.list.element.rollout_logprobs.list.element"
_STRINGS = ["role", "data_source", "end_state", "provenance"]
"""Columns that are dictionary-encoded. Floats must not be: it would merge NaNs of different bits."""


class RunningStream:
    """One append-only Arrow IPC stream, fsynced after every record batch."""

    def __init__(self, folder: Path, stem: str) -> None:
        names = [f"{stem}.running.arrow", *(f"{stem}.running-{part}.arrow" for part in range(1, 1000))]
        self.path = next(folder / name for name in names if not (folder / name).exists())
        self.unclosed: set[GroupKey] = set()
        self._size = 0
        with storage_errors(self.path):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            fsync_dir(folder)
        try:
            self._write(GROUP_SCHEMA.serialize())
        except StorageError:
            self.close()
            raise

    def append(self, batch: pa.RecordBatch, keys: Sequence[GroupKey]) -> None:
        """Add one batch durably. Raises StorageError, having cut off what was written of it."""
        self._write(batch.serialize())
        self.unclosed.update(keys)

    def _write(self, data: pa.Buffer) -> None:
        view = memoryview(data)
        with storage_errors(self.path):
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
                raise
        self._size += len(data)

    def close(self) -> None:
        """Close the file; it stays on disk."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_running(path: Path) -> list[pa.RecordBatch]:
    """Whole record batches of a running stream, memory-mapped; a torn tail is left out."""
    batches: list[pa.RecordBatch] = []
    if path.stat().st_size == 0:
        return batches
    try:
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        if not reader.schema.equals(GROUP_SCHEMA):
            raise DataError(f"{path} was written with another group schema than this version's")
        batches.extend(reader)
    except (OSError, pa.ArrowException):
        pass  # the torn tail of a killed writer: what was read before it is whole
    return batches


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a recovered group lies: in a mapped batch, or in a closed file."""

    row: int
    batch: pa.RecordBatch | None = None
    path: Path | None = None


@dataclass(slots=True)
class _Found:
    """Where groups lie, and the tallies that the running log holds of them."""

    places: dict[GroupKey, _Place] = field(default_factory=dict)
    tallies: dict[GroupKey, Tally] = field(default_factory=dict)

    def add_stream(self, file: GroupFile) -> None:
        for batch in read_running(file.path):
            for row in range(len(batch)):
                key = key_at(batch, row)
                if holds_group(batch, row):
                    self.places[key] = _Place(row, batch)
                elif (tally := tally_at(batch, row)) is not None:
                    self.tallies[key] = tally

    def add_closed(self, path: Path) -> None:
        rows = read_file(path)
        self.places |= {key_at(rows, row): _Place(row, path=path) for row in range(len(rows))}


def _scan_stream(file: GroupFile) -> dict[GroupKey, _Place]:
    found = _Found()
    found.add_stream(file)
    return found.places


@dataclass(slots=True)
class _Leftover:
    """A running stream of an earlier writer and its groups that no closed file holds yet."""

    file: GroupFile
    unclosed: set[GroupKey]


class GroupLogWriter:
    """Appends finished groups, closes steps, and gives recovered groups back.

    Example:
        log = GroupLogWriter(run_dir, incarnation=0)
        log.append(group, step=3)                          # durable when it returns
        log.close_step(3, 0, Role.TRAIN, records, *scored)  # groups/step-000003.b00.i00.parquet
    """

    def __init__(self, run_dir: str, incarnation: int) -> None:
        self._run_dir = Path(run_dir)
        self._folder = self._run_dir / "groups"
        self._incarnation = incarnation
        self._streams: dict[tuple[int, int, Role], RunningStream] = {}
        self._places: dict[GroupKey, _Place] = {}
        self._tallies: dict[GroupKey, Tally] = {}
        self._last_read: tuple[Path, pa.Table] | None = None
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        to_batch(0, incarnation, [])  # pyarrow's first conversion imports pandas: pay for it before the first group
        self._leftovers = [
            _Leftover(file, set(_scan_stream(file))) for file in list_group_files(run_dir) if not file.is_closed
        ]

    def ping(self) -> dict[str, int]:
        """The writer's process id."""
        return {"pid": os.getpid()}

    def append(self, group: RolloutGroup, step: int) -> None:
        """Log one finished group. On return it survives a kill -9 and a power cut.

        Raises:
            StorageError: the write failed; groups appended before are kept, and this writer can go on.
        """
        self.append_all(step, group)

    def append_all(self, step: int, *groups: RolloutGroup) -> None:
        """Log finished groups of one step, branch and role as one record; see `append`."""
        keys = [group.key for group in groups]
        self._stream(step, keys[0]).append(to_batch(step, self._incarnation, groups), keys)

    def keep_all(self, step: int, *groups: RolloutGroup) -> tuple[RolloutGroup | None, ...]:
        """`append_all`, and give the groups back as objects of this node: they outlive those that they were drawn on.

        Returns:
            None, then the groups.
        """
        self.append_all(step, *groups)
        return None, *groups

    def append_tallies(self, tallies: Sequence[tuple[GroupKey, Tally]], step: int) -> None:
        """Log how a batch's groups were tallied, so that a resume counts them as they were counted.

        Args:
            tallies: [n >= 1] of groups of one branch and role.
            step: of the groups.

        Raises:
            StorageError: the write failed.
        """
        stream = self._stream(step, tallies[0][0])
        stream.append(tally_batch(step, self._incarnation, tallies), [])

    def _stream(self, step: int, key: GroupKey) -> RunningStream:
        place = (step, key.branch, key.role)
        if place not in self._streams:
            stem = file_stem(step, key.branch, self._incarnation, key.role)
            self._streams[place] = RunningStream(self._folder, stem)
        return self._streams[place]

    def close_step(
        self,
        step: int,
        branch: int,
        role: Role,
        records: Sequence[StepRecord],
        *objects: RolloutGroup | ScoredGroup,
    ) -> str:
        """Write a step's groups with their votes as one Parquet file, atomically, then drop its running stream.

        Args:
            step: the step.
            branch: of the run.
            role: Role.TRAIN, or Role.EVAL for an evaluation after `step` steps.
            records: votes and end states in group order.
            *objects: the groups, scored where they were rewarded, in the order of `records`.

        Returns:
            The file's path.

        Raises:
            StorageError: the write failed; the running stream still holds the groups.
            ValueError: records and objects do not belong together.
        """
        if len(records) != len(objects):
            raise ValueError(f"{len(records)} records for {len(objects)} groups of step {step}")
        path = self._folder / f"{file_stem(step, branch, self._incarnation, role)}.parquet"
        beside = path.with_name(path.name + ".tmp")
        with storage_errors(path):
            try:
                self._write_parquet(beside, step, records, objects)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            os.replace(beside, path)
            fsync_dir(self._folder)
        self._drop_streams(step, role, {record.key for record in records})
        return str(path)

    def _write_parquet(
        self, path: Path, step: int, records: Sequence[StepRecord], objects: Sequence[RolloutGroup | ScoredGroup]
    ) -> None:
        options = {
            "compression": "zstd",
            "use_dictionary": _STRINGS,
            "column_encoding": {_LOGPROBS: "BYTE_STREAM_SPLIT"},
        }
        with open(path, "wb") as file:
            with pq.ParquetWriter(file, GROUP_SCHEMA, **options) as writer:
                for start in range(0, len(objects), ROWS_PER_ROW_GROUP):
                    part = slice(start, start + ROWS_PER_ROW_GROUP)
                    writer.write_batch(to_batch(step, self._incarnation, objects[part], records[part]))
            file.flush()
            os.fsync(file.fileno())

    def _drop_streams(self, step: int, role: Role, closed: set[GroupKey]) -> None:
        """Remove the streams whose groups are all closed now. An evaluation's ids say nothing about another's."""
        for place, stream in list(self._streams.items()):
            if place[2] is role and (role not in REPEATED or place[0] == step):
                stream.unclosed -= closed
                if not stream.unclosed:
                    stream.close()
                    stream.path.unlink(missing_ok=True)
                    del self._streams[place]
        for leftover in self._leftovers:
            if leftover.file.role is role and (role not in REPEATED or leftover.file.step == step):
                leftover.unclosed -= closed
                if not leftover.unclosed:
                    leftover.file.path.unlink(missing_ok=True)
        self._leftovers = [leftover for leftover in self._leftovers if leftover.file.path.exists()]

    def recover(self, branch: int, role: Role, from_step: int) -> list[GroupKey]:
        """Groups of `branch` that were finished in steps >= `from_step`, by any incarnation.

        Evaluations use the same ids each time, so for roles of REPEATED exactly the one at `from_step` is recovered.
        A later incarnation's record of a group wins over an earlier one's, a closed file over a running stream.

        Returns:
            Keys in id order; `fetch` gives each group back.
        """
        self._places = {key: place for key, place in self._places.items() if key.role is not role}
        files = [
            file
            for file in list_group_files(self._run_dir, role)
            if file.branch == branch and (file.step == from_step or (file.step > from_step and role not in REPEATED))
        ]
        found = _Found()
        for file in sorted(files, key=lambda file: (file.incarnation, file.is_closed, file.step)):
            if file.is_closed:
                found.add_closed(file.path)
            else:
                found.add_stream(file)
        self._places |= found.places
        self._tallies = {key: tally for key, tally in self._tallies.items() if key.role is not role} | found.tallies
        return sorted(found.places)

    def fetch(self, key: GroupKey) -> tuple[RolloutGroup, Tally | None]:
        """A recovered group, bit for bit, with its tally if it was tallied.

        Raises:
            KeyError: `recover` did not return this key.
        """
        place = self._places[key]
        if place.path is None:
            return group_at(place.batch, place.row), self._tallies.get(key)
        if self._last_read is None or self._last_read[0] != place.path:
            self._last_read = (place.path, read_file(place.path))
        rows = self._last_read[1]
        return group_at(rows, place.row), tally_at(rows, place.row)

    def close(self) -> None:
        """Close open streams; they stay on disk for the next incarnation."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
