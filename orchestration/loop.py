"""The training loop: generate, vote, learn, broadcast. It knows stages, not algorithms.

consumes: prompts by admission number.  waits for: samplers, voters, ranks, each under its deadline.
unblocked by: weight sync, which frees the step's slots.  produces: one policy version, one ledger entry per
group, one Parquet file and one metrics row per step.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from configs.schema import RunConfig
from data.prompts import PromptOrder
from learner.orders import needs_reference
from orchestration.autoscale import StepWait
from orchestration.buffer import Slot
from orchestration.checkpoint import Checkpoints, LoopState
from orchestration.end_states import kept_states, why_empty
from orchestration.evaluation import Evaluator
from orchestration.group_log import StepRecord
from orchestration.guarding import Guarding
from orchestration.intake import Intake
from orchestration.labels import Teacher
from orchestration.ledger import Ledger, LedgerRow
from orchestration.prompt_pasts import pasts_of
from orchestration.recovery import recover
from orchestration.rollout_phase import RecoveredGroup, RolloutPhase, fetch
from orchestration.run_dir import RunDir
from orchestration.scaling import Scaling
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.start_times import EVALUATION, FILES, GROUPS, WEIGHTS, StartTimes
from orchestration.step_load import StepLoad
from orchestration.step_metrics import (
    PhaseClock,
    PoolMetrics,
    alarm_limits,
    eval_line,
    learn_metrics,
    no_update,
    rollout_metrics,
)
from orchestration.vote_phase import StepVote, VotePhase
from orchestration.watch.alarms import Alarms
from orchestration.watch.audit import AuditProcess
from orchestration.watch.display import Display
from orchestration.watch.label_history import LabelHistory
from orchestration.watch.metrics import MetricsWriter
from orchestration.watch.trace import StepSpan, Tracer
from orchestration.watch.vote_metrics import vote_metrics
from orchestration.weight_sync import NoTransfer, SyncStats, WeightSync
from quorum.errors import StageError, StorageError
from quorum.types import EndState, GroupKey, Role, ScoreReceipt, TrainingBatch, UpdateStats
from voting.context import PromptPast


@dataclass
class TrainingLoop:
    """One incarnation of a run, from its first step to its last."""

    config: RunConfig
    run_dir: RunDir
    stack: Stack
    sync: WeightSync | NoTransfer
    rollout: RolloutPhase
    evaluator: Evaluator
    order: PromptOrder
    log: Any
    """Actor handle of the GroupLogWriter."""
    metrics: MetricsWriter
    audit: AuditProcess | None
    display: Display
    signals: StopSignals
    state: LoopState
    history: LabelHistory = field(default_factory=LabelHistory)
    """Last label of every prompt, and its past where the vote asks for it; part of the checkpoint."""
    base_agreements: Mapping[str, float] = field(default_factory=dict)
    """By prompt id, of the table that weighs prompts."""
    teacher: Teacher | None = None
    teacher_sync: WeightSync | None = None
    """Brings the policy's average to a teacher that follows it; None for other teachers."""
    scaling: Scaling | None = None
    """None in a run without samplers."""
    times: StartTimes = field(default_factory=StartTimes.over)
    """Of the start, until the first update."""
    recovered: MutableMapping[GroupKey, RecoveredGroup] = field(default_factory=dict)
    """Groups an earlier incarnation finished; all of them, in a run without samplers."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.run_dir.path, self.run_dir.info.incarnation)
        self.intake = Intake.of(
            self.config,
            self.rollout,
            self.order,
            self.sync,
            self.state,
            self.recovered,
            self.teacher,
            self.teacher_sync,
        )
        self.buffer = self.intake.buffer
        self.rollout.beside = self._beside
        self.is_whole = True
        """Whether weights and `state` are of the same step: False from the update until the step is in the ledger."""
        self.voting = VotePhase(self.config, self.stack, self.rollout, self._pasts)
        self.alarms = Alarms(alarm_limits(self.config.voting.alarms), self.state.alarms)
        self.guard = Guarding(
            self.config.guard, self.run_dir.path, self.state.branch, self.state.step, self.display.event
        )
        self.checkpoints = Checkpoints(self.run_dir.path, self.config.checkpoint, self.stack.learner)
        self._evaluated: dict[str, float] = {}
        """Metrics of the evaluation after the steps done so far; empty without one."""
        self._closing: list[Any] = []
        self._flips: list[bool | None] = []
        self._next_audited = self.state.step
        self.pool_metrics = PoolMetrics.since_now(self.stack.pool)
        self.load = StepLoad(self.config, self.stack.plan)
        self.tracer = Tracer(self.run_dir.path, self.config.report.trace)
        self.rollout.on_returned = self.tracer.note_receipt

    def run(self) -> None:
        """Train until `run.num_steps` steps are done. Raises the first stage's error."""
        with self.signals.deferred():
            self.signals.check()
            self.publish_start()
            self._evaluate(self.state.step)
            self.times.mark(EVALUATION)
            self._guard_acts()
            if self.state.step and self._evaluated:  # one that was saved on a signal, before its evaluation
                self._begin_save()
            while self.state.step < self.config.run.num_steps:
                self.step()
                self.checkpoints.poll()
                self.signals.check()
                self._evaluate(self.state.step)
                self._guard_acts()
                is_last = self.state.step == self.config.run.num_steps
                if is_last or self.checkpoints.is_due(self.state.step, self._evaluated):
                    self._begin_save()
            self._settle_log()
            self.checkpoints.settle()

    def _guard_acts(self) -> None:
        """What the guard does between two steps. Raises RollbackOrdered, StoppedByGuard."""
        self.guard.act(self.state.step)
        if self.stack.learner is not None:
            self.stack.learner.factors = self.guard.factors(self.state.step)

    def save(self) -> None:
        """Checkpoint the steps done so far, whole on return. An unfinished step's groups are in the durable log."""
        self._begin_save()
        self.checkpoints.settle()

    def _begin_save(self) -> None:
        """Have the ranks write a checkpoint; it is completed while the next steps go on."""
        self._settle_log()
        self.display.phase("checkpoint", f"after {self.state.step} steps")
        self.checkpoints.save(self.state, self.history.state(), self._evaluated)

    def publish_start(self) -> None:
        """Give every sampler the weights to start from."""
        self.display.phase("sync", "first weights to all samplers")
        self.times.mark(FILES)
        for sync in self.syncs:
            sync.publish(self.state.version)
        self.times.mark(WEIGHTS)

    def _beside(self) -> None:
        """What goes on whenever the driver waits: newcomers among the samplers get the current weights."""
        for sync in self.syncs:
            sync.catch_up(may_begin=not any(other.is_joining for other in self.syncs))
        if self.scaling is not None:
            self.scaling.attend()

    def step(self) -> dict[str, float]:
        """One step: generate, vote, learn, broadcast. Returns its metrics."""
        step = self.state.step
        if self.stack.pool is not None:
            self.stack.pool.take_idle_share()  # what was before, an evaluation perhaps, belongs to no step
        clock = PhaseClock()
        vote = self._draw(step, clock)
        self.times.mark(GROUPS)
        self.is_whole = False
        with clock.phase("learn"):
            stats = self._learn(step, vote)
        if stats.num_updates:
            self.times.end(self.run_dir.path, self.display.event)
        with clock.phase("sync"):
            synced = self._sync_all() if stats.num_updates else None
        self._end_step(step, vote, stats)
        self.is_whole = True
        return self._log_metrics(step, vote, stats, synced, clock)

    @property
    def syncs(self) -> list[WeightSync | NoTransfer]:
        """To the policy's samplers, then to the teacher's."""
        return [self.sync] if self.teacher_sync is None else [self.sync, self.teacher_sync]

    def _sync_all(self) -> SyncStats | None:
        """Publish the next version; returns what it took to reach the policy's samplers, None where there are none."""
        version = self.sync.version + 1
        return [sync.publish(version) for sync in self.syncs][0]

    def _draw(self, step: int, clock: PhaseClock) -> StepVote:
        """Groups of one step with their votes: further prompts are drawn for those dropped, round after round."""
        vote = StepVote()
        for _ in range(self.config.voting.batch.max_rounds):
            missing = self.config.rollout.prompts_per_step - vote.num_kept
            if not missing:
                break
            with clock.phase("rollout"):
                slots = self.intake.next_slots(missing, step, partial(self._show_rollout, step, missing))
            with clock.phase("vote"):
                self.display.phase("vote", "resolve and reward")
                dropped = self.voting.decide([slot for slot in slots if not slot.is_given_up], step, vote)
            lost = [slot for slot in slots if slot.is_given_up]
            vote.quarantined += lost
            self.buffer.release([slot.key for slot in dropped + lost])
        return vote

    def _show_rollout(self, step: int, count: int, owed: int) -> None:
        self.display.phase("rollout", f"step {step}: {max(0, count - owed)}/{count} groups")

    def _learn(self, step: int, vote: StepVote) -> UpdateStats:
        self.display.phase("learn", f"step {step}: {len(vote.receipts)} groups")
        batch = TrainingBatch(
            step=step, branch=self.state.branch, groups=tuple(vote.scored), receipts=tuple(vote.receipts)
        )
        stats = self._update(batch)
        empty = self._num_empty_steps(stats, vote)
        if empty >= self.config.run.max_empty_steps:
            raise StageError(f"{empty} steps in a row {why_empty(vote, stats)}, or raise run.max_empty_steps")
        return stats

    def _update(self, batch: TrainingBatch) -> UpdateStats:
        learner, pool = self.stack.learner, self.stack.pool
        if learner is None:
            return no_update(batch.step, self.sync.version)
        if pool is None or not self.stack.plan.colocate:
            return learner.update(batch, self.intake.meanwhile)
        self.sync.finish_joining()
        pool.take_turns("learner")
        stats = learner.update(batch)
        pool.take_turns("samplers")
        if not stats.num_updates:
            self.sync.publish(self.sync.version)  # they gave their weights up
        return stats

    def _num_empty_steps(self, stats: UpdateStats, vote: StepVote) -> int:
        is_full = vote.num_kept if self.stack.learner is None else stats.num_updates
        return 0 if is_full else self.state.num_empty_steps + 1

    def _end_step(self, step: int, vote: StepVote, stats: UpdateStats) -> None:
        self._settle_log()
        rows, records, objects = [], [], []
        kept = iter(kept_states(self.config, vote.receipts, has_learner=self.stack.learner is not None))
        for slot, tally, resolution, receipt, scored in vote.groups():
            end_state = resolution.end_state or next(kept)
            records.append(StepRecord(key=slot.key, tally=tally, resolution=resolution, end_state=end_state))
            objects.append(slot.group if scored is None else scored)
            rows.append(_ledger_row(step, slot, end_state, receipt, self.order))
        rows += [_ledger_row(step, slot, EndState.QUARANTINED, None, self.order) for slot in vote.quarantined]
        self.ledger.append(sorted(rows, key=lambda row: row.group_id))
        self._close(step, Role.TRAIN, records, objects)
        if self.intake.teacher_groups:
            groups, self.intake.teacher_groups = self.intake.teacher_groups, {}
            self._close(step, Role.TEACHER, [StepRecord(key) for key in groups], list(groups.values()))
        self.buffer.release([slot.key for slot in vote.kept_slots()])
        self._flips = self.history.visit_groups(self._prompt_ids(vote.slots), vote.tallies, vote.resolutions)
        self._evaluated = {}
        self.state = LoopState(
            step=step + 1,
            next_group_id=self.buffer.first_unended,
            ended_ahead=self.buffer.ended_beyond,
            version=self.sync.version,
            branch=self.state.branch,
            num_empty_steps=self._num_empty_steps(stats, vote),
            num_updates=self.state.num_updates + stats.num_updates,
            identity_hash=self.state.identity_hash,
            alarms=self.state.alarms,
        )
        if self.intake.is_ahead:
            self.intake.admit(step + 1)

    def _prompt_ids(self, slots: Sequence[Slot]) -> list[str]:
        return [self.order.prompt_at(slot.key.group_id).prompt_id for slot in slots]

    def _pasts(self, slots: Sequence[Slot]) -> tuple[PromptPast, ...]:
        return pasts_of(self._prompt_ids(slots), self.config.voting, self.history, self.base_agreements)

    def _close(self, step: int, role: Role, records: list[StepRecord], objects: list[Any]) -> None:
        self._closing.append(self.log.close_step.remote(step, self.state.branch, role, records, *objects))

    def _settle_log(self) -> None:
        """Wait for step files still being written; they are at most one step behind."""
        fetch(self._closing, self.config.deadlines.save_seconds, "close the step's file", StorageError)
        self._closing.clear()

    def _log_metrics(
        self, step: int, vote: StepVote, stats: UpdateStats, synced: SyncStats | None, clock: PhaseClock
    ) -> dict[str, float]:
        times = clock.metrics()
        prompt_ids = self._prompt_ids(vote.slots)
        values = vote_metrics(
            vote.tallies, vote.resolutions, vote.receipts, prompt_ids=prompt_ids, label_flips=self._flips
        )
        generating = "step" if self.intake.is_ahead else "rollout"
        values |= rollout_metrics(vote.slots, times[f"time/{generating}_seconds"])
        values |= self._pool_metrics(step, vote, times)
        values |= learn_metrics(stats, needs_reference(self.config.learner.kl)) | times
        values |= self.load.metrics(vote, values)
        if synced is not None:
            values |= {"sync/seconds": synced.seconds, "sync/bytes": float(synced.num_bytes)}
            values["sync/num_checked_tensors"] = float(synced.num_checked_tensors)
        sentences = self.alarms.check(values)
        self.state = replace(self.state, alarms=self.alarms.raised)
        values["vote/num_alarms"] = float(len(sentences))
        values["vote/num_rounds"] = float(vote.num_rounds)
        values["vote/num_replicas"] = float(self.stack.voting.num_replicas)
        for sentence in sentences:
            self.display.event(f"alarm: {sentence}")
        values["guard/score"] = self.guard.see(step, values)
        self._write(step, values)
        self._show_step(step, vote, synced, clock, times, times[f"time/{generating}_seconds"])
        self.display.step(step, values | self._audited())
        return values

    def _show_step(
        self,
        step: int,
        vote: StepVote,
        synced: SyncStats | None,
        clock: PhaseClock,
        times: Mapping[str, float],
        generating: float,
    ) -> None:
        """What a step has more to show than its row: values by sampler for the sinks, and its timeline."""
        pool, transfer = self.stack.pool, None if synced is None else synced.seconds
        self.metrics.observe(self.load.facts(step, vote.slots, pool, generating, transfer))
        span = StepSpan(
            step=step,
            began=clock.began,
            ended=clock.began + times["time/step_seconds"],
            phases=clock.spans,
            samplers=[] if pool is None else [sampler.sampler_id for sampler in pool.samplers],
        )
        name = f"step-{step:06d}.b{self.state.branch:02d}.i{self.run_dir.info.incarnation:02d}"
        self.tracer.end_step(name, span, self.rollout.num_on_the_way)

    def _pool_metrics(self, step: int, vote: StepVote, times: Mapping[str, float]) -> dict[str, float]:
        """What samplers did and waited; the autoscaling policy goes by it."""
        if self.stack.pool is None:
            return {}
        wait = StepWait(times["time/rollout_seconds"] / times["time/step_seconds"], self.stack.pool.take_idle_share())
        if self.scaling is not None:
            self.scaling.after_step(step + 1, wait)
        return self.pool_metrics.of_step(self.stack.pool, vote.slots, len(vote.quarantined), wait.sampler_idle_share)

    def _audited(self) -> dict[str, float]:
        """Log what the audit found in earlier steps, each under its own step; return the newest of it."""
        newest: dict[str, float] = {}
        while self.audit is not None and self._next_audited < self.state.step:
            found = self.audit.wait_for(self._next_audited, Role.TRAIN, 0)
            if found is None:
                break
            self._write(self._next_audited, found)
            newest = found
            self._next_audited += 1
        return newest

    def _evaluate(self, step: int) -> None:
        """Evaluate when due; one that an earlier incarnation finished is read from its log."""
        is_same_again = self.stack.learner is None and step > 0
        if is_same_again or not self.evaluator.is_due(step):
            return
        self.display.phase("evaluate", f"after {step} steps")
        self._settle_log()
        self._evaluated = self.evaluator.run(
            step,
            self.sync.version,
            self._recovered_evaluation(step),
            lambda done: self.display.phase("evaluate", f"after {step} steps: {done} groups"),
        )
        self._evaluated["guard/score"] = self.guard.see(step, self._evaluated)  # before any reference is read
        if self.audit is None:
            self._write(step, self._evaluated)
            return
        values = self.audit.wait_for(step, Role.EVAL, self.config.deadlines.vote_seconds)
        self._evaluated = {**(values or {}), **self._evaluated}  # what both measure: over all prompts, not the scored
        self._write(step, self._evaluated)
        if self.audit.failure:
            self.display.event(self.audit.failure)
        self.display.event(eval_line(step, values))

    def _recovered_evaluation(self, step: int) -> dict[GroupKey, RecoveredGroup]:
        if self.run_dir.info.incarnation == 0:
            return {}
        found: dict[GroupKey, RecoveredGroup] = {}
        for role in self.evaluator.roles:
            found |= recover(self.log, self.state.branch, role, step, self.config.deadlines.save_seconds)
        return found

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        info = self.run_dir.info
        self.metrics.log(step, self.state.branch, info.incarnation, dict(values))


def _ledger_row(
    step: int, slot: Slot, end_state: EndState, receipt: ScoreReceipt | None, order: PromptOrder
) -> LedgerRow:
    return LedgerRow(
        branch=slot.key.branch,
        group_id=slot.key.group_id,
        step=step,
        end_state=end_state,
        versions=slot.receipt.versions if slot.receipt else (),
        tokens_hash=slot.receipt.content_hash if slot.receipt else "",
        reward_hash=receipt.reward_hash if receipt else "",
        prompt_id=order.prompt_at(slot.key.group_id).prompt_id,
    )
