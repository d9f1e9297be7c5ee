"""The index of a run: a few small columns per group, never a completion. Grows with new steps, not with their texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestration.group_table import GroupFile, closed_files, list_group_files
from orchestration.watch.inspect.files import mean_tokens, read_columns
from orchestration.watch.inspect.verdicts import Verdict, Verdicts
from orchestration.watch.label_history import LabelHistory
from quorum.errors import DataError
from quorum.types import Role

MAX_LABEL_CHARACTERS = 200
"""What the index keeps of a label; the group's own page shows the whole."""

_READ = (
    *("group_id", "prompt_id", "data_source", "answers", "cluster", "sizes", "representatives"),
    *("label_cluster", "pseudo_label", "agreement", "margin", "end_state"),
)
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("row", pa.int32()),
        ("group_id", pa.int64()),
        ("prompt_id", pa.string()),
        ("data_source", pa.string()),
        ("num_completions", pa.int32()),
        ("distinct", pa.int32()),
        ("agreement", pa.float32()),
        ("margin", pa.float32()),
        ("label", pa.string()),
        ("end_state", pa.string()),
        ("flipped", pa.bool_()),
    ]
)
"""One row per group. Where nobody was elected by the vote (evaluations), agreement, margin and label are the largest
cluster's. `flipped`: another label than at the prompt's last visit; null where either has none."""


class _WinningAnswers(Collection[str]):
    """Answers of one cluster, read only when somebody asks: most labels are those of the last visit."""

    def __init__(self, rows: pa.Table, row: int, cluster: int | None) -> None:
        self._rows, self._row, self._cluster = rows, row, cluster

    def _values(self) -> set[str]:
        answers = self._rows.column("answers")[self._row].as_py() or ()
        numbers = self._rows.column("cluster")[self._row].as_py() or ()
        pairs = zip(answers, numbers, strict=True)
        return {answer for answer, number in pairs if answer is not None and number == self._cluster >= 0}

    def __contains__(self, answer: object) -> bool:
        return self._cluster is not None and answer in self._values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


@dataclass(slots=True)
class _Step:
    """The indexed groups of one closed file."""

    file: GroupFile
    rows: pa.Table
    tokens: np.ndarray | None = None


@dataclass(slots=True)
class RoleIndex:
    """Closed groups of one role in step order. Call `refresh` before reading; not thread-safe."""

    run: Path
    role: Role
    verdicts: Verdicts
    problems: dict[Path, str] = field(default_factory=dict)
    """Files that could not be read, and why; they are left out."""
    _steps: dict[int, _Step] = field(default_factory=dict)
    _history: LabelHistory = field(default_factory=LabelHistory)
    _table: pa.Table | None = None
    _verdicts: np.ndarray | None = None

    def refresh(self, *, audit_grew: bool) -> None:
        """Take in steps that were closed since; start over when a step was done again."""
        files = closed_files(self.run, self.role)
        known = {step: held.file.path for step, held in self._steps.items()}
        newest = max(known, default=-1)
        if any(step not in files or files[step].path != path for step, path in known.items()) or any(
            step < newest for step in files.keys() - known.keys() if files[step].path not in self.problems
        ):
            self._steps, self._history, self.problems, self._table = {}, LabelHistory(), {}, None
        for step in sorted(files):
            if step in self._steps or files[step].path in self.problems:
                continue
            try:
                self._steps[step] = _Step(files[step], self._rows_of(files[step]))
            except DataError as error:
                self.problems[files[step].path] = str(error)
            self._table = None
        if audit_grew or self._table is None:
            self._verdicts = None

    def _rows_of(self, file: GroupFile) -> pa.Table:
        rows = read_columns(file.path, _READ)
        small = rows.drop_columns(["answers", "cluster", "representatives"]).to_pylist()
        made = [self._row(rows, number, values) for number, values in enumerate(small)]
        for number, values in enumerate(made):
            values |= {"step": file.step, "row": number}
        return pa.Table.from_pylist(made, schema=SCHEMA)

    def _row(self, rows: pa.Table, number: int, values: dict[str, Any]) -> dict[str, Any]:
        sizes = values["sizes"] or []
        answers = rows.column("answers")[number]
        count = len(answers) if answers.is_valid else 0
        cluster, label = values["label_cluster"], values["pseudo_label"]
        agreement, margin = values["agreement"], values["margin"]
        if agreement is None and sizes and count:
            first, second = (*sorted(sizes, reverse=True), 0)[:2]
            agreement, margin = first / count, (first - second) / count
            if first > second:
                cluster = sizes.index(first)
                label = rows.column("representatives")[number][cluster].as_py()
        flipped = self._history.visit(values["prompt_id"], _WinningAnswers(rows, number, cluster), label)
        return {
            "group_id": values["group_id"],
            "prompt_id": values["prompt_id"],
            "data_source": values["data_source"],
            "num_completions": count,
            "distinct": len(sizes),
            "agreement": agreement,
            "margin": margin,
            "label": None if label is None else label[:MAX_LABEL_CHARACTERS],
            "end_state": values["end_state"],
            "flipped": flipped,
        }

    @property
    def table(self) -> pa.Table:
        """SCHEMA, in step order, then in the order of the step's file."""
        if self._table is None:
            parts = [self._steps[step].rows for step in sorted(self._steps)]
            self._table = (pa.concat_tables(parts) if parts else SCHEMA.empty_table()).combine_chunks()
        return self._table

    @property
    def right(self) -> np.ndarray:
        """[rows of table] int8: the audit found the most common answer right (1) or wrong (0), or said nothing (-1)."""
        if self._verdicts is None:
            found: list[int] = []
            for step in sorted(self._steps):
                said = self._said(step)
                ids = self._steps[step].rows.column("group_id").to_pylist()
                found += [int(said[name].is_correct) if name in said else -1 for name in ids]
            self._verdicts = np.array(found, dtype=np.int8)
        return self._verdicts

    def _said(self, step: int) -> Any:
        file = self._steps[step].file
        return self.verdicts.of_step(self.role, step, file.branch, file.incarnation)

    @property
    def steps(self) -> list[int]:
        """Steps that are closed and readable."""
        return sorted(self._steps)

    def path(self, step: int) -> Path:
        """The file that counts for a step. Raises KeyError."""
        return self._steps[step].file.path

    def tokens(self, step: int) -> np.ndarray:
        """[groups of the step] mean completion length in tokens; read when first asked for, then kept."""
        held = self._steps[step]
        if held.tokens is None:
            held.tokens = mean_tokens(held.file.path)
        return held.tokens

    def find(self, step: int, group_id: int) -> int | None:
        """Place of a group in `table`."""
        if step not in self._steps:
            return None
        before = sum(len(held.rows) for number, held in self._steps.items() if number < step)
        ids = self._steps[step].rows.column("group_id").to_numpy()
        places = np.flatnonzero(ids == group_id)
        return before + int(places[-1]) if len(places) else None

    def verdict(self, place: int) -> Verdict | None:
        """What the audit said of the group at a place of `table`."""
        step = self.table.column("step")[place].as_py()
        return self._said(step).get(self.table.column("group_id")[place].as_py())

    @property
    def open_steps(self) -> list[int]:
        """Steps whose running log exists: they are going on, or a killed driver left them."""
        running = {file.step for file in list_group_files(self.run, self.role) if not file.is_closed}
        return sorted(running - self._steps.keys())


class RunIndex:
    """The roles of one run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.verdicts = Verdicts(run)
        self._roles: dict[Role, RoleIndex] = {}

    @property
    def roles(self) -> list[Role]:
        """Roles that have closed files now, training first."""
        present = {file.role for file in list_group_files(self.run) if file.is_closed}
        return [role for role in Role if role in present]

    def of(self, role: Role) -> RoleIndex:
        """The index of one role, brought up to date."""
        grew = self.verdicts.refresh()
        if grew:
            for other in self._roles.values():
                other._verdicts = None
        index = self._roles.setdefault(role, RoleIndex(self.run, role, self.verdicts))
        index.refresh(audit_grew=grew)
        return index
