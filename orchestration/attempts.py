"""A run outlives its learner: ranks that fail are started again, and go on from the last checkpoint.

Samplers, voters and the audit live as long as the run; learner ranks, group log, weight sync and loop belong to one
attempt. What an attempt did after its last checkpoint is superseded by the next one, which reads the finished groups
from the log and does the rest again: in the strict schedule to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from orchestration.budgets import learn_from_out_of_memory, with_learned_budgets
from orchestration.cluster import on_this_node
from orchestration.evaluation import Evaluator
from orchestration.guard_record import GuardRecord
from orchestration.guarding import RollbackOrdered, settle_rollback
from orchestration.loop import TrainingLoop
from orchestration.preflight import Preflight
from orchestration.recovery import RecoverableLog
from orchestration.resume import checkpoint_to_load, restore
from orchestration.rollout_phase import RolloutPhase, fetch
from orchestration.run_dir import RunDir
from orchestration.run_mode import order_of, sync_of, with_stored_groups
from orchestration.scaling import Scaling
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.start_times import StartTimes
from orchestration.watch.audit import AuditProcess
from orchestration.watch.display import Display
from orchestration.watch.metrics import MetricsWriter
from orchestration.watch.probe_set import ProbeBook
from orchestration.watch.sinks.fan_out import Sinks
from orchestration.weight_sync import WeightSync
from quorum.errors import LearnerError, LearnerOutOfMemory, QuorumError, RankFailure, StorageError

RESTARTABLE = (RankFailure, LearnerOutOfMemory)
"""What another attempt may survive. A damaged checkpoint, a loss that is not finite or a full disk it would not."""


@dataclass
class Attempts:
    """The attempts of one `train` call, one after the other."""

    config: RunConfig
    run_dir: RunDir
    checked: Preflight
    display: Display
    signals: StopSignals
    stack: Stack
    audit: AuditProcess | None
    scaling: Scaling | None
    """None without samplers."""
    num_restarts: int = 0
    times: StartTimes = field(default_factory=StartTimes.over)
    """Of the start, until the first update."""

    @contextmanager
    def open(self) -> Iterator[TrainingLoop]:
        """The loop of one incarnation, set back to the last checkpoint and ready to run.

        Raises:
            RankFailure, LearnerOutOfMemory: from the body too; see `restart`. No sampler waits for the ranks any more.
            RollbackOrdered: from the body; see `roll_back`.
        """
        with ExitStack() as cleanup:
            loop = self._loop(cleanup)
            try:
                yield loop
            except (*RESTARTABLE, RollbackOrdered) as end:
                loop.checkpoints.keep_what_is_whole(wait=isinstance(end, RollbackOrdered))
                for pool in self.stack.pools:
                    pool.abandon()
                for sync in loop.syncs:
                    sync.settle()
                raise
            except QuorumError:
                loop.checkpoints.keep_what_is_whole(wait=True)
                raise

    def _loop(self, cleanup: ExitStack) -> TrainingLoop:
        config, run_dir, stack = self.config, self.run_dir, self.stack
        log = start_log(run_dir.path, run_dir.info.incarnation)
        cleanup.callback(_end_log, log, config.deadlines.save_seconds)
        state, history, recovered = restore(config, run_dir, stack, log, self.display)
        sinks = Sinks(config, run_dir, self.display.event)
        metrics = MetricsWriter(run_dir.path, tensorboard=config.report.tensorboard, sinks=sinks)
        cleanup.push(lambda kind, error, trace: metrics.close(is_failed=error is not None))
        rollout = RolloutPhase(config, stack, log, self.signals.check, self.display.event, self.checked.dispenser)
        evaluation = self.checked.evaluation.prompts if self.checked.evaluation else ()
        incarnation, teacher = run_dir.info.incarnation, self.checked.teacher
        teacher_sync = None
        if teacher is not None and teacher.is_average and stack.teachers is not None and stack.learner is not None:
            teacher_sync = WeightSync(config, stack.learner, stack.teachers, incarnation, "average")
        return TrainingLoop(
            config=config,
            run_dir=run_dir,
            stack=stack,
            sync=sync_of(config, stack, incarnation),
            rollout=rollout,
            evaluator=Evaluator(config, rollout, log, evaluation, state.branch, incarnation, ProbeBook(run_dir.path)),
            order=order_of(config, self.checked),
            log=log,
            metrics=metrics,
            audit=self.audit,
            display=self.display,
            signals=self.signals,
            state=state,
            history=history,
            base_agreements=self.checked.base_agreements,
            teacher=teacher,
            teacher_sync=teacher_sync,
            scaling=self.scaling,
            times=self.times,
            recovered=with_stored_groups(self.checked.source, recovered, state.branch),
        )

    def roll_back(self, order: RollbackOrdered) -> None:
        """Start the ranks again from an earlier checkpoint, on a new branch: with other seeds.

        Args:
            order: of the guard, which has recorded it.

        Raises:
            LearnerError: as `restart`.
            Interrupted: a signal came meanwhile.
        """
        self.signals.check()
        self.display.phase("roll back", f"to the policy after {order.step} steps")
        settle_rollback(self.run_dir.path)
        self.run_dir.begin_branch(GuardRecord(self.run_dir.path).branch)
        try:
            self.stack.restart_learner(self.config, self.run_dir.info.rank_namespace, checkpoint_to_load(self.run_dir))
        except RESTARTABLE as error:
            self.restart(error)

    def restart(self, error: LearnerError) -> None:
        """Start the ranks again for a new incarnation; after running out of memory with a smaller micro-batch budget.

        Args:
            error: one of RESTARTABLE, which ended the last attempt.

        Raises:
            LearnerError: `error` itself, with a note, when no restart is left or none would help.
            Interrupted: a signal came meanwhile.
        """
        while True:
            if isinstance(error, LearnerOutOfMemory):
                device = self.checked.plan.device
                self.display.event(learn_from_out_of_memory(self.run_dir.path, self.config, device, error))
                self.config = with_learned_budgets(self.config, self.run_dir.path)
            limit = self.config.learner.max_restarts
            if self.num_restarts >= limit:
                error.add_note(f"no restart of the learner is left (learner.max_restarts={limit})")
                raise error
            self.num_restarts += 1
            self.signals.check()
            what = str(error).rstrip(".")
            self.display.event(f"{what}; the learner starts again ({self.num_restarts} of at most {limit} times)")
            self.display.phase("restart", "learner ranks")
            self.run_dir.begin_incarnation()
            try:
                namespace = self.run_dir.info.rank_namespace
                self.stack.restart_learner(self.config, namespace, checkpoint_to_load(self.run_dir))
                return
            except RESTARTABLE as another:
                error = another


def start_log(run_path: Path, incarnation: int) -> Any:
    """The writer actor of the durable group log, on the driver's node: run directories are the driver's."""
    import ray

    actor = ray.remote(RecoverableLog).options(num_cpus=0, scheduling_strategy=on_this_node())
    return actor.remote(str(run_path), incarnation)


def _end_log(log: Any, timeout: float) -> None:
    """Let the writer finish what it was given, then end it: the next incarnation has one of its own."""
    import ray

    with suppress(StorageError):  # it died, or is late: what it wrote is on disk
        fetch([log.close.remote()], timeout, "close the durable log", StorageError)
    ray.kill(log)
