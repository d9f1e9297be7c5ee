"""Groups as Arrow rows: schema, file names, conversion both ways, and reading the closed files of a run.

Tokens and log-probabilities round-trip bit for bit. Needs pyarrow and numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quorum.errors import DataError
from quorum.types import (
    Completion,
    EndState,
    FinishReason,
    GroupKey,
    Outcome,
    Resolution,
    Role,
    RolloutGroup,
    ScoredGroup,
    Tally,
    VersionSpan,
)

FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)


def _list_of(value_type: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", value_type))


SPAN = pa.struct([("version", pa.int64()), ("start", pa.int32())])
COMPLETION = pa.struct(
    [
        ("index", pa.int32()),
        ("text", pa.string()),
        ("token_ids", _list_of(pa.int32())),
        ("rollout_logprobs", _list_of(pa.float32())),
        ("finish_reason", pa.string()),
        ("spans", _list_of(SPAN)),
    ]
)
VOTE_FIELDS = [
    ("answers", _list_of(pa.string())),
    ("outcomes", _list_of(pa.string())),
    ("cluster", _list_of(pa.int32())),
    ("sizes", _list_of(pa.int32())),
    ("representatives", _list_of(pa.string())),
    ("num_intransitive_merges", pa.int32()),
    ("num_undecided_pairs", pa.int32()),
    ("weights", _list_of(pa.float64())),
    ("entropies", _list_of(pa.float64())),
    ("self_certainties", _list_of(pa.float64())),
    ("jury", _list_of(pa.int32())),
    ("jury_provenance", pa.string()),
    ("label_cluster", pa.int32()),
    ("pseudo_label", pa.string()),
    ("provenance", pa.string()),
    ("agreement", pa.float64()),
    ("margin", pa.float64()),
    ("rewards", _list_of(pa.float32())),
    ("train_mask", _list_of(pa.bool_())),
    ("kl_mask", pa.bool_()),
    ("is_paid", pa.bool_()),
    ("num_unjudged", pa.int32()),
    ("weight", pa.float64()),
    ("penalty", pa.float64()),
    ("end_state", pa.string()),
]
"""Null in the running log, and where a group was not voted on or not rewarded."""
TALLY_FIELDS = ("answers", "cluster", "sizes", "representatives", "weights", "entropies", "self_certainties", "jury")
"""Sequences of a Tally, stored under their own names."""
GROUP_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("branch", pa.int32()),
        ("incarnation", pa.int32()),
        ("role", pa.string()),
        ("group_id", pa.int64()),
        ("prompt_id", pa.string()),
        ("data_source", pa.string()),
        ("prompt_text", pa.string()),
        ("prompt_token_ids", _list_of(pa.int32())),
        ("attempts", pa.int32()),
        ("completions", _list_of(COMPLETION)),
        *VOTE_FIELDS,
    ],
    metadata={"quorum.groups": "2"},
)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the driver knows of one group when its step closes."""

    key: GroupKey
    tally: Tally | None = None
    resolution: Resolution | None = None
    end_state: EndState | None = None


class GroupFile(NamedTuple):
    """One file under `groups/`, sorted by step, then by who supersedes whom."""

    step: int
    branch: int
    incarnation: int
    role: Role
    is_closed: bool
    path: Path


_FILE_NAME = re.compile(
    r"(?:(?P<role>[a-z]+)-)?step-(?P<step>\d+)\.b(?P<branch>\d+)\.i(?P<incarnation>\d+)\."
    r"(?P<kind>parquet|running(?:-\d+)?\.arrow)"
)


def file_stem(step: int, branch: int, incarnation: int, role: Role) -> str:
    """`step-000123.b00.i00`, or `eval-step-...` for other roles than training."""
    prefix = "" if role is Role.TRAIN else f"{role.value}-"
    return f"{prefix}step-{step:06d}.b{branch:02d}.i{incarnation:02d}"


def list_group_files(run_dir: str | Path, role: Role | None = None) -> list[GroupFile]:
    """Closed and running group files of a run, sorted; an empty list where there are none."""
    found = []
    folder = Path(run_dir) / "groups"
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or (match["role"] and match["role"] not in set(Role)):
            continue
        file_role = Role(match["role"] or Role.TRAIN)
        if role is None or file_role is role:
            numbers = (int(match[name]) for name in ("step", "branch", "incarnation"))
            found.append(GroupFile(*numbers, file_role, match["kind"] == "parquet", path))
    return sorted(found)


def closed_files(run_dir: str | Path, role: Role = Role.TRAIN) -> dict[int, GroupFile]:
    """The closed file that counts for each step: the highest (branch, incarnation)."""
    return {file.step: file for file in list_group_files(run_dir, role) if file.is_closed}


def read_groups(run_dir: str | Path, step: int | None = None, role: Role = Role.TRAIN) -> pa.Table:
    """Groups of closed steps, superseded ones left out.

    Args:
        run_dir: the run directory.
        step: one step, or None for all of them in order.
        role: training groups by default.

    Returns:
        Rows of GROUP_SCHEMA in step order, then in the order the step was closed in. Empty when nothing is closed.

    Raises:
        DataError: a file cannot be read.
    """
    files = closed_files(run_dir, role)
    chosen = sorted(files) if step is None else [step] if step in files else []
    tables = [read_file(files[number].path) for number in chosen]
    return pa.concat_tables(tables) if tables else GROUP_SCHEMA.empty_table()


def read_file(path: Path) -> pa.Table:
    """Rows of one closed file. Raises DataError when it is not readable."""
    try:
        rows = pq.ParquetFile(path).read()
        for field in GROUP_SCHEMA:
            if field.name not in rows.column_names:  # a file of an earlier release
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        return rows.select(GROUP_SCHEMA.names).cast(GROUP_SCHEMA)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read as a group file: {error}") from error


def _text(value: str) -> str:
    """Lone surrogates cannot be stored; they become question marks. All other text is kept as it is."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _lists(arrays: Sequence[np.ndarray], dtype: type[np.generic]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    flat = np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.empty(0, dtype)
    value_type = pa.from_numpy_dtype(np.dtype(dtype))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=_list_of(value_type))


def _completions(groups: Sequence[RolloutGroup]) -> pa.ListArray:
    offsets = np.zeros(len(groups) + 1, dtype=np.int32)
    np.cumsum([len(group.completions) for group in groups], out=offsets[1:])
    flat = [completion for group in groups for completion in group.completions]
    columns = [
        pa.array([completion.index for completion in flat], pa.int32()),
        pa.array([_text(completion.text) for completion in flat], pa.string()),
        _lists([completion.token_ids for completion in flat], np.int32),
        _lists([completion.rollout_logprobs for completion in flat], np.float32),
        pa.array([completion.finish_reason for completion in flat], pa.string()),
        pa.array([[span._asdict() for span in completion.spans] for completion in flat], _list_of(SPAN)),
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(COMPLETION))
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=_list_of(COMPLETION))


def _tally_row(tally: Tally) -> dict[str, Any]:
    row: dict[str, Any] = {name: list(getattr(tally, name)) for name in TALLY_FIELDS}
    row["answers"] = [None if answer is None else _text(answer) for answer in tally.answers]
    row["representatives"] = [_text(answer) for answer in tally.representatives]
    row["outcomes"] = [outcome.value for outcome in tally.outcomes]
    return row | {
        "num_intransitive_merges": tally.num_intransitive_merges,
        "num_undecided_pairs": tally.num_undecided_pairs,
        "jury_provenance": tally.jury_provenance,
    }


def _vote_row(record: StepRecord, scored: ScoredGroup | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    tally, resolution = record.tally or (scored.tally if scored else None), record.resolution
    if tally is not None:
        row = _tally_row(tally)
    decided = resolution or scored
    if decided is not None:
        row |= {name: getattr(decided, name) for name in ("provenance", "agreement", "margin")}
        row["pseudo_label"] = None if decided.pseudo_label is None else _text(decided.pseudo_label)
    if resolution is not None:
        row |= {"label_cluster": resolution.label_cluster, "is_paid": resolution.is_paid}
    if scored is not None:
        row |= {"rewards": scored.rewards, "train_mask": scored.train_mask, "kl_mask": scored.kl_mask}
        row |= {"num_unjudged": scored.num_unjudged, "weight": scored.weight, "penalty": scored.penalty}
    if record.end_state is not None:
        row["end_state"] = record.end_state.value
    return row


def to_batch(
    step: int, incarnation: int, objects: Sequence[RolloutGroup | ScoredGroup], records: Sequence[StepRecord] = ()
) -> pa.RecordBatch:
    """Rows for groups of one step.

    Args:
        step: the step the groups belong to.
        incarnation: of the writer.
        objects: groups, scored or not.
        records: [len(objects)] votes and end states in the same order, or empty for the running log.

    Returns:
        A batch of GROUP_SCHEMA, in the order of `objects`.

    Raises:
        ValueError: a record's key is not its object's.
    """
    groups = [item.group if isinstance(item, ScoredGroup) else item for item in objects]
    records = records or [StepRecord(group.key) for group in groups]
    for group, record in zip(groups, records, strict=True):
        if group.key != record.key:
            raise ValueError(f"record of group {tuple(record.key)} came with the object of group {tuple(group.key)}")
    scored = [item if isinstance(item, ScoredGroup) else None for item in objects]
    votes = [_vote_row(record, item) for record, item in zip(records, scored, strict=True)]
    columns: dict[str, Any] = {
        "step": [step] * len(groups),
        "branch": [group.branch for group in groups],
        "incarnation": [incarnation] * len(groups),
        "role": [group.role.value for group in groups],
        "group_id": [group.group_id for group in groups],
        "prompt_id": [group.prompt_id for group in groups],
        "data_source": [_text(group.data_source) for group in groups],
        "prompt_text": [_text(group.prompt_text) for group in groups],
        "prompt_token_ids": _lists([group.prompt_token_ids for group in groups], np.int32),
        "attempts": [group.attempts for group in groups],
        "completions": _completions(groups),
        **{name: [vote.get(name) for vote in votes] for name, _ in VOTE_FIELDS},
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, GROUP_SCHEMA.field(name).type)
        for name, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=GROUP_SCHEMA)


def tally_batch(step: int, incarnation: int, tallies: Sequence[tuple[GroupKey, Tally]]) -> pa.RecordBatch:
    """Rows for the running log that hold a group's tally alone; its completions are in a row of their own."""
    rows = [
        {
            "step": step,
            "branch": key.branch,
            "incarnation": incarnation,
            "role": key.role.value,
            "group_id": key.group_id,
            **_tally_row(tally),
        }
        for key, tally in tallies
    ]
    return pa.RecordBatch.from_pylist(rows, schema=GROUP_SCHEMA)


def tally_at(rows: pa.Table | pa.RecordBatch, index: int) -> Tally | None:
    """The tally of row `index`; None where the group was not tallied."""
    values = {name: rows.column(name)[index].as_py() for name, _ in VOTE_FIELDS}
    if values["answers"] is None:
        return None
    return Tally(
        group_id=rows.column("group_id")[index].as_py(),
        outcomes=tuple(Outcome(outcome) for outcome in values["outcomes"]),
        num_intransitive_merges=values["num_intransitive_merges"],
        num_undecided_pairs=values["num_undecided_pairs"] or 0,
        jury_provenance=values["jury_provenance"] or "",
        **{name: tuple(values[name] or ()) for name in TALLY_FIELDS},
    )


def holds_group(rows: pa.Table | pa.RecordBatch, index: int) -> bool:
    """Whether row `index` holds a group's completions, not its tally alone."""
    return bool(rows.column("completions")[index].is_valid)


def _array(scalar: pa.ListScalar, dtype: type[np.generic]) -> np.ndarray:
    return np.array(scalar.values.to_numpy(zero_copy_only=False), dtype=dtype)


def _completion(struct: pa.StructScalar) -> Completion:
    finish_reason = struct["finish_reason"].as_py()
    if finish_reason not in FINISH_REASONS:
        raise DataError(f"unknown finish reason {finish_reason!r} in a group file, expected one of {FINISH_REASONS}")
    return Completion(
        index=struct["index"].as_py(),
        token_ids=_array(struct["token_ids"], np.int32),
        text=struct["text"].as_py(),
        rollout_logprobs=_array(struct["rollout_logprobs"], np.float32),
        finish_reason=finish_reason,
        spans=tuple(VersionSpan(**span) for span in struct["spans"].as_py()),
    )


def group_at(rows: pa.Table | pa.RecordBatch, index: int) -> RolloutGroup:
    """Row `index` as the group it was: tokens and log-probabilities bit for bit (equal `content_hash`)."""
    names = ("group_id", "prompt_id", "branch", "data_source", "prompt_text", "attempts")
    return RolloutGroup(
        **{name: rows.column(name)[index].as_py() for name in names},
        role=Role(rows.column("role")[index].as_py()),
        prompt_token_ids=_array(rows.column("prompt_token_ids")[index], np.int32),
        completions=tuple(_completion(struct) for struct in rows.column("completions")[index].values),
    )


def key_at(rows: pa.Table | pa.RecordBatch, index: int) -> GroupKey:
    """Identity of the group in row `index`."""
    branch, role, group_id = (rows.column(name)[index].as_py() for name in ("branch", "role", "group_id"))
    return GroupKey(branch, Role(role), group_id)
