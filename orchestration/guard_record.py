"""What the guard did in a run: `guard.jsonl`, one durable row per intervention, outside every checkpoint.

It is what a rollback cannot forget: how many there were (the branch), and what stays turned down since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.schema import GuardSection
from learner.orders import StepFactors
from orchestration.watch.jsonl import append_rows, read_rows

FILE_NAME = "guard.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """One warning or alarm, and what followed."""

    branch: int
    step: int
    """Steps done."""
    kind: str
    """warning or alarm."""
    score: float
    reason: str
    actions: tuple[str, ...] = ()
    """What was done: lower_lr, raise_kl, rollback, stop."""
    rollback_to: int | None = None
    """Steps done in the checkpoint that the run went back to; 0: the base model."""


class GuardRecord:
    """The interventions of a run. An attempt that repeats steps repeats them too, and they count once."""

    def __init__(self, run_path: Path) -> None:
        self._path = run_path / FILE_NAME
        self.rows = [_read(row) for row in read_rows(self._path)]

    @property
    def branch(self) -> int:
        """Of the run: one more with every rollback."""
        return sum(row.rollback_to is not None for row in self.rows)

    @property
    def last_rollback(self) -> Intervention | None:
        """None before the first."""
        return next((row for row in reversed(self.rows) if row.rollback_to is not None), None)

    def find(self, branch: int, step: int, kind: str) -> Intervention | None:
        """The intervention that an earlier attempt made at the same place."""
        return next((row for row in self.rows if (row.branch, row.step, row.kind) == (branch, step, kind)), None)

    def add(self, row: Intervention) -> None:
        """Record it, durable on return. Raises StorageError."""
        append_rows(self._path, [asdict(row)])
        self.rows.append(row)

    def before(self, branch: int, step: int) -> Sequence[Intervention]:
        """Those of earlier branches, and of this one up to `step` steps."""
        return [row for row in self.rows if row.branch < branch or (row.branch == branch and row.step <= step)]

    def factors(self, section: GuardSection, branch: int, step: int) -> StepFactors:
        """What learning rate and KL weight are multiplied with after `step` steps.

        What a branch did after the step that it was rolled back to counts too: it is why there is another branch.
        """
        done = [action for row in self.before(branch, step) for action in row.actions]
        return StepFactors(
            learning_rate=section.learning_rate_factor ** done.count("lower_lr"),
            kl=section.kl_factor ** done.count("raise_kl"),
        )


def _read(row: dict[str, object]) -> Intervention:
    actions = row.get("actions")
    return Intervention(**{**row, "actions": tuple(actions if isinstance(actions, list) else ())})  # type: ignore[arg-type]
