"""Prompts that turned from right to wrong and back between two points of a run, from what the audit wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.watch.jsonl import current_rows, read_rows
from quorum.errors import DataError
from quorum.types import Role

Rows = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""Rows of `audit/prompts.jsonl` that count, by step in step order, then by prompt id."""


@dataclass(frozen=True, slots=True)
class PromptChange:
    """One prompt's majority answer at the two points."""

    prompt_id: str
    data_source: str
    reference: str
    before_answer: str | None
    """None without an answer, and on a tie: both are wrong."""
    after_answer: str | None
    was_correct: bool
    is_correct: bool


@dataclass(frozen=True, slots=True)
class Transitions:
    """How prompts fared between two points of a run; each prompt is in exactly one of the four."""

    before: int
    """Step of the earlier point."""
    after: int
    role: Role
    right_to_right: tuple[PromptChange, ...]
    right_to_wrong: tuple[PromptChange, ...]
    wrong_to_right: tuple[PromptChange, ...]
    wrong_to_wrong: tuple[PromptChange, ...]
    num_unpaired: int = 0
    """Prompts that were scored at one point only, so in none of the four."""

    @property
    def num_prompts(self) -> int:
        """Prompts scored at both points."""
        return sum(len(part) for row in self.matrix for part in row)

    @property
    def matrix(self) -> tuple[tuple[tuple[PromptChange, ...], ...], ...]:
        """Rows: right before, wrong before. Columns: right after, wrong after."""
        return (self.right_to_right, self.right_to_wrong), (self.wrong_to_right, self.wrong_to_wrong)

    @property
    def points(self) -> tuple[str, str]:
        """The two points in words."""
        if self.role is Role.EVAL:
            return f"after {self.before} steps", f"after {self.after} steps"
        return f"first visit from step {self.before} on", f"last visit up to step {self.after}"


def prompt_rows(run_dir: str | Path, role: Role) -> dict[int, dict[str, Mapping[str, Any]]]:
    """What the audit found in each prompt: for a step the newest file's rows, for a prompt the last of them.

    Returns:
        Rows by step in step order, then by prompt id; empty where nothing was audited.
    """
    rows = [row for row in read_rows(Path(run_dir) / "audit" / "prompts.jsonl") if row.get("role") == role.value]
    return {step: {row["prompt_id"]: row for row in group} for step, group in current_rows(rows).items()}


def transitions(
    run_dir: str | Path, before: int | None = None, after: int | None = None, role: Role = Role.EVAL
) -> Transitions:
    """Compare the majority answers of the same prompts at two points of a run.

    For evaluations a point is the evaluation after so many steps. Training steps hold different prompts, so there the
    points are the ends of a range of steps: a prompt visited more than once from step `before` to step `after`, both
    included, is compared between its first and its last visit.

    Args:
        run_dir: the run directory.
        before: the earlier point; None takes the first there is.
        after: the later point; None takes the last there is.
        role: which groups.

    Returns:
        The four kinds, each in order of prompt id.

    Raises:
        DataError: nothing was scored in this role, no evaluation was scored at a point, or `before` is not earlier
            than `after`.
    """
    rows = prompt_rows(run_dir, role)
    if not rows:
        raise DataError(f"{run_dir}: no prompt was scored against a reference answer (role {role.value})")
    first = min(rows) if before is None else before
    last = max(rows) if after is None else after
    if first >= last:
        raise DataError(f"{run_dir}: nothing lies between {first} and {last}: want two points, the earlier first")
    if role is Role.EVAL:
        for point in (first, last):
            if point not in rows:
                known = ", ".join(map(str, rows))
                raise DataError(
                    f"{run_dir}: no evaluation after {point} steps was scored; there are those after {known}"
                )
        return compare(first, last, role, rows[first], rows[last])
    inside = {step: found for step, found in rows.items() if first <= step <= last}
    return compare(first, last, role, *_first_and_last_visits(inside))


def _first_and_last_visits(rows: Rows) -> tuple[dict[str, Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """Each prompt's first row, and its last one where that is of a later step."""
    firsts: dict[str, Mapping[str, Any]] = {}
    lasts: dict[str, Mapping[str, Any]] = {}
    for found in rows.values():
        for prompt_id, row in found.items():
            (lasts if prompt_id in firsts else firsts)[prompt_id] = row
    return firsts, lasts


def compare(
    before: int, after: int, role: Role, old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> Transitions:
    """The transitions of the prompts in both `old` and `new`, rows of `audit/prompts.jsonl` by prompt id."""
    changes = [_change(old[prompt_id], new[prompt_id]) for prompt_id in sorted(old.keys() & new.keys())]

    def kind(was: bool, now: bool) -> tuple[PromptChange, ...]:
        return tuple(change for change in changes if (change.was_correct, change.is_correct) == (was, now))

    return Transitions(
        before=before,
        after=after,
        role=role,
        right_to_right=kind(True, True),
        right_to_wrong=kind(True, False),
        wrong_to_right=kind(False, True),
        wrong_to_wrong=kind(False, False),
        num_unpaired=len(old.keys() ^ new.keys()),
    )


def table_lines(found: Transitions) -> list[str]:
    """The 2 x 2 table as plain text, without indentation."""
    old, new = found.points
    head = f"majority answers of {found.num_prompts:,} prompts, {old} against {new}"
    width = max(11, len(f"{found.num_prompts:,}"))
    lines = [head, f"{'':12}  {'right after':>{width}}  {'wrong after':>{width}}"]
    for title, parts in zip(("right before", "wrong before"), found.matrix, strict=True):
        lines.append(f"{title}  " + "  ".join(f"{len(part):>{width},}" for part in parts))
    if found.num_unpaired:
        lines.append(f"{found.num_unpaired:,} more were scored at one point only")
    return lines


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> PromptChange:
    return PromptChange(
        prompt_id=new["prompt_id"],
        data_source=new["data_source"],
        reference=new["reference"],
        before_answer=old["answer"],
        after_answer=new["answer"],
        was_correct=old["is_correct"],
        is_correct=new["is_correct"],
    )


def histories(rows: Rows) -> dict[str, Sequence[tuple[int, bool, str | None]]]:
    """(step, is the majority answer right, the answer) of every prompt, in step order, by prompt id."""
    found: dict[str, list[tuple[int, bool, str | None]]] = {}
    for step, group in rows.items():
        for prompt_id, row in group.items():
            found.setdefault(prompt_id, []).append((step, row["is_correct"], row["answer"]))
    return dict(found)
