"""The guard in a run: it sees every row before it is written, and acts between steps.

consumes: metric rows.  waits for: nothing.  unblocked by: nothing.  produces: `guard/score`, events, factors for the
learner; RollbackOrdered or StoppedByGuard out of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from configs.schema import GuardSection
from learner.orders import StepFactors
from orchestration.checkpoint import checkpoint_steps, set_back
from orchestration.guard_record import GuardRecord, Intervention
from orchestration.watch.guard.guard import Guard, Verdict
from orchestration.watch.guard.replay import Rows, health_by_step, rows_of_run
from quorum.errors import StoppedByGuard

WARNING, ALARM = "warning", "alarm"


class RollbackOrdered(Exception):  # noqa: N818
    """The guard wants the run to go on from an earlier step: no error, it leaves the loop as one that is over."""

    def __init__(self, step: int) -> None:
        super().__init__(f"go on from the checkpoint after {step} steps")
        self.step = step


class Guarding:
    """The guard of one attempt, set up as far as the metrics of the steps before say."""

    def __init__(
        self, section: GuardSection, run_path: Path, branch: int, step: int, say: Callable[[str], None]
    ) -> None:
        """Take in what was.

        Args:
            section: the guard's configuration.
            run_path: run directory; metrics of steps before `step` are read from it.
            branch: of the run.
            step: steps done.
            say: told of warnings, alarms and what is done.
        """
        self._section, self._run_path, self._branch, self._say = section, run_path, branch, say
        self._record = GuardRecord(run_path)
        self._guard = Guard(section.detectors, section.alarm_at)
        self._standing: dict[str, int] = {}
        """Kind of what stands now -> steps done when it was last acted on."""
        self._verdict: Verdict | None = None
        self._catch_up([(at, row) for at, row in rows_of_run(run_path, branch) if at < step])

    def _catch_up(self, rows: Rows) -> None:
        """Be where the attempt was that wrote these rows: an evaluation's is of the steps before it."""
        done = 0
        for at, row in rows:
            now = at if "eval/agreement_mean" in row else at + 1
            if now != done:
                self._due(done)
            done = now
            self.see(at, row)

    def see(self, step: int, values: Mapping[str, float | None]) -> float:
        """Take a row in before it is written. Returns its guard/score."""
        self._verdict = self._guard.update(values, step)
        return self._verdict.score

    def factors(self, step: int) -> StepFactors:
        """For the learner's step after `step` steps."""
        return self._record.factors(self._section, self._branch, step)

    def act(self, step: int) -> None:
        """Say and do what the newest row asks for.

        Args:
            step: steps done.

        Raises:
            RollbackOrdered: the run goes on from an earlier step; it is recorded.
            StoppedByGuard: the run ends.
            StorageError: the intervention could not be recorded.
        """
        kind = self._due(step)
        if kind is None or self._verdict is None:
            return
        verdict, wanted = self._verdict, self._section.on_alarm if kind == ALARM else self._section.on_warning
        known = self._record.find(self._branch, step, kind)
        row = known or self._intervention(kind, step, verdict, wanted)
        if known is None:
            self._record.add(row)
        done = ", ".join(row.actions) or "nothing is done about it (guard.on_alarm)"
        self._say(f"guard: {kind} after {step} steps, score {row.score:.2f}: {row.reason}: {done}")
        if row.rollback_to is not None:
            raise RollbackOrdered(row.rollback_to)
        if "stop" in row.actions:
            raise StoppedByGuard(self._farewell(step, row))

    def _due(self, step: int) -> str | None:
        """Whether what the newest row shows is to be acted on now: it is new, or has stood for too long."""
        verdict = self._verdict
        if verdict is None:
            return None
        stands = {ALARM: verdict.is_alarmed, WARNING: verdict.score >= self._section.warn_at}
        due = None
        for kind in (WARNING, ALARM):
            acted = self._standing.get(kind)
            if not stands[kind]:
                self._standing.pop(kind, None)
            elif acted is None or step - acted >= self._section.patience_steps:
                self._standing[kind], due = step, kind
        return due

    def _intervention(self, kind: str, step: int, verdict: Verdict, wanted: Sequence[str]) -> Intervention:
        actions, back = list(wanted), None
        if "rollback" in actions:
            if self._record.branch < self._section.max_rollbacks:
                back = self._healthiest(step)
            else:
                actions.remove("rollback")
                actions += [] if self._section.when_spent == "log" else ["stop"]
        return Intervention(
            branch=self._branch,
            step=step,
            kind=kind,
            score=verdict.score,
            reason=verdict.reason or f"detectors are near their thresholds ({_nearest(self._guard.levels())})",
            actions=tuple(dict.fromkeys(actions)),
            rollback_to=back,
        )

    def _healthiest(self, step: int) -> int:
        """Steps done in the checkpoint to go back to: of those that are kept, and the base model, the healthiest."""
        health = health_by_step(rows_of_run(self._run_path, self._branch))
        kept = [0, *(one for one in checkpoint_steps(self._run_path) if one < step)]

        def rank(one: int) -> tuple[float, int]:
            measured = [at for at in health if at <= one]
            return (health[max(measured)] if measured else 0.0, one)

        return max(kept, key=rank)

    def _farewell(self, step: int, row: Intervention) -> str:
        best = self._healthiest(step)
        model = f"`quorum export {self._run_path} OUT --step {best}`" if best else "the base model"
        return (
            f"the guard ended the run after {step} steps: {row.reason}; the healthiest policy, by eval/health, is that "
            f"after {best} steps: {model}; to go on regardless, resume with guard.on_alarm=[]"
        )


def settle_rollback(run_path: Path) -> None:
    """Complete a rollback that is recorded: checkpoints of the branch that was left go, `latest` names the one before.

    Nothing to do when none is recorded, or the newer branch has its own checkpoints already. Raises StorageError.
    """
    record = GuardRecord(run_path)
    last = record.last_rollback
    if last is not None and last.rollback_to is not None:
        set_back(run_path, last.rollback_to, record.branch)


def _nearest(levels: Mapping[str, float]) -> str:
    return max(levels, key=lambda name: (levels[name], name), default="none")
