"""What a step's log row says of rollout and learning, and the line about an evaluation. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from configs.schema import AlarmSection
from orchestration.buffer import Slot
from orchestration.recovery import RECOVERED
from orchestration.watch.trace import Span
from quorum.types import UpdateStats
from rollout.pool import SamplerPool

EVAL_SHOWN = ("average_accuracy", "majority_accuracy", "abstain_share", "completion_tokens_mean")
"""What the line about an evaluation says of it."""


class PhaseClock:
    """Wall time of a step by phase; what no phase claims is `wait`, so the parts sum to the step."""

    PHASES = ("rollout", "vote", "learn", "sync")

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds = dict.fromkeys(self.PHASES, 0.0)
        self.spans: list[Span] = []
        """Phases in the order in which they ended."""

    @property
    def began(self) -> float:
        """Of the step, on the monotonic clock."""
        return self._started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            self._seconds[name] += ended - began
            self.spans.append(Span(name, began, ended))

    def metrics(self) -> dict[str, float]:
        """time/* metrics in seconds."""
        step = time.monotonic() - self._started
        named = {f"time/{name}_seconds": seconds for name, seconds in self._seconds.items()}
        return named | {"time/wait_seconds": step - sum(self._seconds.values()), "time/step_seconds": step}


def alarm_limits(section: AlarmSection) -> dict[str, float]:
    """Limits of a step's metrics by name."""
    return {
        "vote/unparsed_share": section.unparsed,
        "vote/truncated_share": section.truncated,
        "vote/timed_out_share": section.timed_out,
        "vote/error_share": section.error,
    }


def rollout_metrics(slots: Sequence[Slot], seconds: float) -> dict[str, float]:
    """rollout/* metrics of a step's groups, dropped ones too."""
    receipts = [slot.receipt for slot in slots if slot.receipt is not None]
    if not receipts:
        return {"rollout/num_groups": 0.0}
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


@dataclass
class RunningMean:
    """Mean of everything so far."""

    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int) -> None:
        self.total, self.count = self.total + total, self.count + count

    @property
    def value(self) -> float:
        return self.total / self.count


@dataclass
class PoolMetrics:
    """rollout/* metrics of the samplers; remembers what was counted in earlier steps."""

    _lost: int = 0
    _requeued: int = 0
    _mean_length: RunningMean = field(default_factory=RunningMean)

    @classmethod
    def since_now(cls, pool: SamplerPool | None) -> PoolMetrics:
        """Count nothing of what the samplers went through before."""
        return cls() if pool is None else cls(pool.roster.num_lost, pool.num_requeued)

    def of_step(
        self, pool: SamplerPool, slots: Sequence[Slot], num_quarantined: int, idle_share: float
    ) -> dict[str, float]:
        """Metrics of one step.

        Args:
            pool: of the policy.
            slots: the step's groups.
            num_quarantined: groups of the step that were given up.
            idle_share: of the samplers' time.
        """
        lost, requeued = pool.roster.num_lost - self._lost, pool.num_requeued - self._requeued
        self._lost, self._requeued = pool.roster.num_lost, pool.num_requeued
        values = {
            "rollout/num_samplers": float(pool.num_ready),
            "rollout/num_lost": float(lost),
            "rollout/num_requeued": float(requeued),
            "rollout/num_quarantined": float(num_quarantined),
            "rollout/idle_share": idle_share,
        }
        receipts = [slot.receipt for slot in slots if slot.receipt is not None]
        if not receipts:
            return values
        completions = sum(sum(receipt.finish_counts.values()) for receipt in receipts)
        tokens = sum(receipt.num_tokens for receipt in receipts)
        self._mean_length.add(tokens, completions)
        return values | {
            "rollout/staleness_mean": sum(slot.age for slot in slots) / len(slots),
            "rollout/staleness_max": float(max(slot.age for slot in slots)),
            "rollout/split_versions_share": sum(len(receipt.versions) > 1 for receipt in receipts) / len(receipts),
            "rollout/length_bias_ratio": tokens / completions / self._mean_length.value,
        }


def no_update(step: int, version: int) -> UpdateStats:
    """What a step did to the policy where there is no learner: nothing."""
    nothing = dict.fromkeys(("loss", "grad_norm", "kl", "entropy", "logprob_gap", "clip_share", "seconds"), 0.0)
    return UpdateStats(step=step, version=version, num_updates=0, num_tokens=0, **nothing)


def learn_metrics(stats: UpdateStats, has_kl: bool) -> dict[str, float]:
    """learn/* metrics of a step."""
    if not stats.num_updates:
        skipped = stats.extra.get("learn/num_skipped_updates", 0.0)
        return {"learn/num_updates": 0.0, "learn/num_tokens": 0.0, "learn/num_skipped_updates": skipped}
    return {
        "learn/loss": stats.loss,
        "learn/grad_norm": stats.grad_norm,
        **({"learn/kl_mean": stats.kl} if has_kl else {}),
        "learn/clip_share": stats.clip_share,
        "learn/entropy_mean": stats.entropy,
        "learn/num_updates": float(stats.num_updates),
        "learn/num_tokens": float(stats.num_tokens),
        "sync/logprob_gap_mean": stats.logprob_gap,
        **stats.extra,
    }


def eval_line(step: int, values: Mapping[str, float] | None) -> str:
    """What is shown of an evaluation."""
    if values is None:
        shown = "drawn; its scores were not there within deadlines.vote_seconds and will be in audit/eval.jsonl"
    elif not values:
        shown = "drawn; the data has no reference answers to score it"
    else:
        named = {name.removeprefix("eval/"): value for name, value in values.items()}
        shown = ", ".join(f"{name} {named[name]:.3f}" for name in EVAL_SHOWN if name in named)
    return f"evaluation after {step} steps: {shown}"
