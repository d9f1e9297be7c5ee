"""The training loop: generate, vote, learn, broadcast. It knows stages, not algorithms.

consumes: prompts by admission number.  waits for: samplers, voters, ranks, each under its deadline.
unblocked by: weight sync, which frees the step's slots.  produces: one policy version, one ledger entry per
group, one Parquet file and one metrics row per step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from data.prompts import PromptOrder
from learner.orders import needs_base_model
from orchestration.buffer import Buffer, Slot
from orchestration.checkpoint import LoopState, save_checkpoint
from orchestration.evaluation import Evaluator
from orchestration.group_log import StepRecord
from orchestration.ledger import Ledger, LedgerRow
from orchestration.recovery import RECOVERED, recover
from orchestration.rollout_phase import RolloutPhase, fetch, train_key, train_sampling
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.stack import Stack
from orchestration.watch.audit import AuditProcess
from orchestration.watch.display import Display
from orchestration.watch.metrics import MetricsWriter
from orchestration.watch.vote_metrics import vote_metrics
from orchestration.weight_sync import SyncStats, WeightSync
from quorum.errors import StageError, StorageError
from quorum.types import EndState, GroupKey, Resolution, Role, ScoreReceipt, Tally, TrainingBatch, UpdateStats
from voting.rules import resolve

EVAL_SHOWN = ("average_accuracy", "majority_accuracy", "abstain_share", "completion_tokens_mean")
"""What the line about an evaluation says of it."""


class PhaseClock:
    """Wall time of a step by phase; what no phase claims is `wait`, so the parts sum to the step."""

    PHASES = ("rollout", "vote", "learn", "sync")

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds = dict.fromkeys(self.PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - began

    def metrics(self) -> dict[str, float]:
        """time/* metrics in seconds."""
        step = time.monotonic() - self._started
        named = {f"time/{name}_seconds": seconds for name, seconds in self._seconds.items()}
        return named | {"time/wait_seconds": step - sum(self._seconds.values()), "time/step_seconds": step}


@dataclass(slots=True)
class Vote:
    """One step after resolve and reward, in group order."""

    tallies: list[Tally]
    resolutions: list[Resolution]
    receipts: list[ScoreReceipt] = field(default_factory=list)
    """Of the groups that stay in the batch."""
    scored: list[Any] = field(default_factory=list)
    """ObjectRef[ScoredGroup], same order as `receipts`."""


@dataclass
class TrainingLoop:
    """One incarnation of a run, from its first step to its last."""

    config: RunConfig
    run_dir: RunDir
    stack: Stack
    sync: WeightSync
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
    recovered: dict[GroupKey, Any] = field(default_factory=dict)
    """Groups an earlier incarnation finished: (receipt, group) references by key."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.run_dir.path, self.run_dir.info.incarnation)
        self.buffer = Buffer(self.config.rollout.prompts_per_step, next_group_id=self.state.next_group_id)
        self.is_whole = True
        """Whether weights and `state` are of the same step: False from the update until the step is in the ledger."""
        self._closing: list[Any] = []
        self._next_audited = self.state.step

    def run(self) -> None:
        """Train until `run.num_steps` steps are done. Raises the first stage's error."""
        with self.signals.deferred():
            self.signals.check()
            self.publish_start()
            self._evaluate(self.state.step)
            while self.state.step < self.config.run.num_steps:
                self.step()
                self.signals.check()
                self._evaluate(self.state.step)
                if self._checkpoint_is_due(self.state.step):
                    self.save()
            self._settle_log()

    def save(self) -> None:
        """Checkpoint the steps done so far. The groups of an unfinished step are in the durable log."""
        assert self.stack.learner is not None
        self._settle_log()
        self.display.phase("checkpoint", f"after {self.state.step} steps")
        save_checkpoint(self.run_dir.path, self.stack.learner, self.state, self.config.checkpoint.keep)

    def publish_start(self) -> None:
        """Connect samplers and learner and give every sampler the weights to start from."""
        self.display.phase("sync", "first weights to all samplers")
        self.sync.connect()
        self.sync.publish(self.state.version)

    def step(self) -> dict[str, float]:
        """One step: generate, vote, learn, broadcast. Returns its metrics."""
        step = self.state.step
        clock = PhaseClock()
        with clock.phase("rollout"):
            slots = self._rollout(step)
        with clock.phase("vote"):
            vote = self._vote(slots)
        self.is_whole = False
        with clock.phase("learn"):
            stats = self._learn(step, vote)
        with clock.phase("sync"):
            synced = self.sync.publish(self.sync.version + 1) if stats.num_updates else None
        self._end_step(step, slots, vote, stats)
        self.is_whole = True
        return self._log_metrics(step, slots, vote, stats, synced, clock)

    def _rollout(self, step: int) -> list[Slot]:
        version, sampling = self.sync.version, train_sampling(self.config)
        requests = []
        for _ in range(min(self.buffer.num_free, self.config.rollout.prompts_per_step)):
            key = train_key(self.state.branch, self.buffer.next_group_id)
            self.buffer.admit(key)
            requests.append(self.rollout.request(key, self.order.prompt_at(key.group_id), sampling, version))
        total = len(requests)
        self.display.phase("rollout", f"step {step}: 0/{total} groups")
        finished = self.rollout.run(
            requests,
            step,
            recovered=self.recovered,
            on_finished=lambda done: self.display.phase("rollout", f"step {step}: {done}/{total} groups"),
        )
        for key, done in finished.items():
            self.recovered.pop(key, None)
            self.buffer.finish(key, done.receipt, done.group, done.tally)
        return self.buffer.batch()

    def _vote(self, slots: list[Slot]) -> Vote:
        self.display.phase("vote", "resolve and reward")
        tallies: list[Tally] = [self.stack.voting.fetch(slot.tally) for slot in slots]
        vote = Vote(tallies, resolve(tallies, self.config.voting))
        receipts = []
        for slot, tally, resolution in zip(slots, tallies, vote.resolutions, strict=True):
            if resolution.end_state is None:
                receipt, scored = self.stack.voting.reward(slot.group, tally, resolution)
                receipts.append(receipt)
                vote.scored.append(scored)
        vote.receipts = [self.stack.voting.fetch(receipt) for receipt in receipts]
        return vote

    def _learn(self, step: int, vote: Vote) -> UpdateStats:
        assert self.stack.learner is not None
        self.display.phase("learn", f"step {step}: {len(vote.receipts)} groups")
        batch = TrainingBatch(
            step=step, branch=self.state.branch, groups=tuple(vote.scored), receipts=tuple(vote.receipts)
        )
        stats = self.stack.learner.update(batch)
        empty = self.state.num_empty_steps + 1 if not stats.num_updates else 0
        if empty >= self.config.run.max_empty_steps:
            ends = ", ".join(sorted({str(r.end_state) for r in vote.resolutions if r.end_state}))
            raise StageError(
                f"{empty} steps in a row had no trainable group (last: {ends}); the voting rule drops everything: "
                "look at voting.extractor and the completions in groups/, or raise run.max_empty_steps"
            )
        self._empty_steps = empty
        return stats

    def _end_step(self, step: int, slots: list[Slot], vote: Vote, stats: UpdateStats) -> None:
        self._settle_log()
        scored = dict(
            zip((r.group_id for r in vote.receipts), zip(vote.receipts, vote.scored, strict=True), strict=True)
        )
        rows, records, objects = [], [], []
        for slot, tally, resolution in zip(slots, vote.tallies, vote.resolutions, strict=True):
            receipt, ref = scored.get(slot.key.group_id, (None, slot.group))
            end_state = resolution.end_state or EndState.TRAINED
            records.append(StepRecord(key=slot.key, tally=tally, resolution=resolution, end_state=end_state))
            objects.append(ref)
            rows.append(_ledger_row(step, slot, end_state, receipt, self.order))
        self.ledger.append(rows)
        self._closing.append(self.log.close_step.remote(step, self.state.branch, Role.TRAIN, records, *objects))
        self.buffer.release([slot.key for slot in slots])
        self.state = LoopState(
            step=step + 1,
            next_group_id=self.buffer.next_group_id,
            version=self.sync.version,
            branch=self.state.branch,
            num_empty_steps=self._empty_steps,
            num_updates=self.state.num_updates + stats.num_updates,
            identity_hash=self.state.identity_hash,
        )

    def _settle_log(self) -> None:
        """Wait for step files still being written; they are at most one step behind."""
        fetch(self._closing, self.config.deadlines.save_seconds, "close the step's file", StorageError)
        self._closing.clear()

    def _log_metrics(
        self, step: int, slots: list[Slot], vote: Vote, stats: UpdateStats, synced: SyncStats | None, clock: PhaseClock
    ) -> dict[str, float]:
        times = clock.metrics()
        values = vote_metrics(vote.tallies, vote.resolutions, vote.receipts)
        values |= _rollout_metrics(slots, times["time/rollout_seconds"])
        values |= _learn_metrics(stats, needs_base_model(self.config.learner.kl)) | times
        if synced is not None:
            values |= {"sync/seconds": synced.seconds, "sync/bytes": float(synced.num_bytes)}
            values["sync/num_checked_tensors"] = float(synced.num_checked_tensors)
        self._write(step, values)
        self.display.step(step, values | self._audited())
        return values

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
        if not self.evaluator.is_due(step):
            return
        self.display.phase("evaluate", f"after {step} steps")
        self._settle_log()
        self.evaluator.run(
            step,
            self.sync.version,
            self._recovered_evaluation(step),
            lambda done: self.display.phase("evaluate", f"after {step} steps: {done} groups"),
        )
        if self.audit is None:
            return
        values = self.audit.wait_for(step, Role.EVAL, self.config.deadlines.vote_seconds)
        self._write(step, values or {})
        if self.audit.failure:
            self.display.event(self.audit.failure)
        self.display.event(_eval_line(step, values))

    def _recovered_evaluation(self, step: int) -> dict[GroupKey, Any]:
        if self.run_dir.info.incarnation == 0:
            return {}
        return recover(self.log, self.state.branch, Role.EVAL, step, self.config.deadlines.save_seconds)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        info = self.run_dir.info
        self.metrics.log(step, self.state.branch, info.incarnation, dict(values))

    def _checkpoint_is_due(self, step: int) -> bool:
        every = self.config.checkpoint.every_steps
        return step == self.config.run.num_steps or bool(every and step % every == 0)


def _ledger_row(
    step: int, slot: Slot, end_state: EndState, receipt: ScoreReceipt | None, order: PromptOrder
) -> LedgerRow:
    assert slot.receipt is not None
    return LedgerRow(
        branch=slot.key.branch,
        group_id=slot.key.group_id,
        step=step,
        end_state=end_state,
        versions=slot.receipt.versions,
        tokens_hash=slot.receipt.content_hash,
        reward_hash=receipt.reward_hash if receipt else "",
        prompt_id=order.prompt_at(slot.key.group_id).prompt_id,
    )


def _rollout_metrics(slots: list[Slot], seconds: float) -> dict[str, float]:
    receipts = [slot.receipt for slot in slots if slot.receipt is not None]
    num_completions = sum(sum(r.finish_counts.values()) for r in receipts)
    tokens = sum(r.num_tokens for r in receipts)
    prompt_tokens = sum(r.num_prompt_tokens for r in receipts)
    return {
        "rollout/completion_tokens_mean": tokens / num_completions,
        "rollout/truncated_share": sum(r.finish_counts.get("length", 0) for r in receipts) / num_completions,
        "rollout/num_groups": float(len(receipts)),
        "rollout/num_recovered": float(sum(r.sampler_id == RECOVERED for r in receipts)),
        "rollout/tokens_per_second": tokens / seconds if seconds > 0 else 0.0,
        "rollout/prefilled_ratio": sum(r.num_prefilled_tokens for r in receipts) / prompt_tokens,
    }


def _learn_metrics(stats: UpdateStats, has_kl: bool) -> dict[str, float]:
    if not stats.num_updates:
        return {"learn/num_updates": 0.0, "learn/num_tokens": 0.0}
    return {
        "learn/loss": stats.loss,
        "learn/grad_norm": stats.grad_norm,
        **({"learn/kl_mean": stats.kl} if has_kl else {}),
        "learn/entropy_mean": stats.entropy,
        "learn/num_updates": float(stats.num_updates),
        "learn/num_tokens": float(stats.num_tokens),
        "sync/logprob_gap_mean": stats.logprob_gap,
        **stats.extra,
    }


def _eval_line(step: int, values: Mapping[str, float] | None) -> str:
    if values is None:
        shown = "drawn; its scores were not there within deadlines.vote_seconds and will be in audit/eval.jsonl"
    elif not values:
        shown = "drawn; the data has no reference answers to score it"
    else:
        named = {name.removeprefix("eval/"): value for name, value in values.items()}
        shown = ", ".join(f"{name} {named[name]:.3f}" for name in EVAL_SHOWN if name in named)
    return f"evaluation after {step} steps: {shown}"
