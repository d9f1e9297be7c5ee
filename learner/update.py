"""One rank's share of a step: passes before it, advantages, then its updates, each a loss, a gradient and a step.

In the strict schedule with one update per step the old log-probabilities are the current ones, detached: the ratio is
exactly 1 and no pass is spent on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.schema import LearnerSection
from learner.advantages import Advantage, Advantages
from learner.batch import MicroBatch
from learner.collate import Collated, collate
from learner.covariance import hold
from learner.critic import value_losses
from learner.kl import KLCoefficient
from learner.models import LearnerModels
from learner.objective import MicroBatchTokens, Objective
from learner.orders import StepOrders, StepSums, UpdateShare
from learner.passes import Passes, TokenArrays, joined, rollout_logprobs, run_passes
from learner.step_table import token_weights
from learner.sums import SUMS, LocalSums, named_groups
from learner.zero import NOT_STEPPED
from quorum.errors import NonFiniteLoss
from quorum.types import RolloutGroup, ScoredGroup


@dataclass(slots=True)
class _Step:
    """What stays the same over a step's updates."""

    orders: StepOrders
    groups: list[RolloutGroup | None]
    passes: Passes
    advantages: Advantages
    held: TokenArrays
    kl_weight: float
    """Of the KL penalty."""


class Updater:
    """Runs steps on one rank."""

    def __init__(
        self,
        models: LearnerModels,
        section: LearnerSection,
        on_progress: Callable[[str], None],
        *,
        max_completion_tokens: int,
        seed: int = 0,
    ) -> None:
        """Bind the parts.

        Args:
            models: of this rank.
            section: the learner's configuration.
            on_progress: told the phase after each micro-batch.
            max_completion_tokens: constant length of `aggregation: sequence_constant`, where none is set.
            seed: of what is drawn (Clip-Cov).
        """
        self.models, self.section, self.on_progress = models, section, on_progress
        self.engine, self.device = models.engine, models.engine.device
        self.kl_coefficient = KLCoefficient(section.kl)
        self._objective = Objective(section)
        self._advantage = Advantage(section, self.device)
        self._limit, self._seed = max_completion_tokens, seed
        self._holds = section.covariance.mode != "off"
        self._kl_in_reward = section.kl.coefficient > 0 and section.kl.place == "reward"

    def run(
        self, orders: StepOrders, groups: Mapping[int, ScoredGroup], learning_rate: Callable[[int], tuple[float, float]]
    ) -> StepSums:
        """Take a step's updates. A collective.

        Args:
            orders: of this rank.
            groups: the scored groups in them, by position in the batch.
            learning_rate: of the policy and the critic, by updates of this step so far.

        Raises:
            NonFiniteLoss: on every rank, before the optimizer is stepped; unless `non_finite` is skip.
        """
        scored = (groups.get(i) for i in range(len(orders.table.group_ids)))
        by_position = [None if one is None else one.group for one in scored]
        step = self._prepare(orders, by_position)
        coefficient = step.kl_weight
        totals, losses, norms = np.zeros(len(SUMS)), [], []
        rate, num_tokens, num_completions, gap = 0.0, 0, 0, 0.0
        shares = [share for _ in range(orders.num_epochs) for share in orders.updates]
        for index, share in enumerate(shares):
            factor = orders.factors.learning_rate
            rate, critic_rate = (each * factor for each in learning_rate(len(losses)))
            taken = self._update(step, share, rate, critic_rate)
            if taken is None:
                continue
            loss, norm, sums = taken
            if index == 0:  # later updates have moved away from the policy that sampled
                gap = sums[SUMS.index("gap")] / share.num_tokens
            losses.append(loss)
            norms.append(norm)
            totals += sums
            num_tokens += share.num_tokens
            num_completions += share.num_completions
        named = dict(zip(SUMS, totals.tolist(), strict=True))
        named["gap"] = gap * num_tokens
        if self._kl_in_reward:
            named["kl"] = step.advantages.kl_sum * max(1, num_tokens) / sum(s.num_tokens for s in orders.updates)
        if num_tokens and self.models.reference is not None:
            self.kl_coefficient.see(named["kl"] / num_tokens, num_completions)
        return StepSums(
            num_updates=len(losses),
            num_skipped=len(shares) - len(losses),
            num_tokens=num_tokens,
            loss=float(np.mean(losses)) if losses else 0.0,
            grad_norm=float(np.mean(norms)) if norms else 0.0,
            learning_rate=rate,
            kl_coefficient=coefficient,
            sums=named,
        )

    def _prepare(self, orders: StepOrders, groups: list[RolloutGroup | None]) -> _Step:
        models, forwards = self.models, {}
        if self._kl_in_reward or self.section.old_source == "recompute":
            forwards["policy"] = models.policy
        if self._kl_in_reward and models.reference is not None:
            forwards["reference"] = models.reference
        if models.critic is not None:
            forwards["values"] = models.critic
        passes = run_passes(orders, groups, forwards, self.on_progress)
        rows = [(r.group, r.completion) for share in orders.updates for part in share.micro_batches for r in part]
        kl_weight = self.kl_coefficient.value * orders.factors.kl
        advantages = self._advantage(orders.table, rows, passes, kl_weight if self._kl_in_reward else 0.0)
        held: TokenArrays = {}
        if self._holds:
            for index, share in enumerate(orders.updates):
                is_new = self.section.old_source == "recompute"
                old = passes.policy if is_new else rollout_logprobs(share, groups)
                rng = np.random.default_rng([self._seed, orders.step, index])
                held |= hold(orders.table, share, old, advantages.tokens, self.section.covariance, rng, self.device)
        return _Step(orders, groups, passes, advantages, held, kl_weight)

    def _update(
        self, step: _Step, share: UpdateShare, learning_rate: float, critic_rate: float
    ) -> tuple[float, float, NDArray[np.float64]] | None:
        """One optimizer call: (loss, gradient norm, [len(SUMS)] sums); None where it was skipped."""
        models, section = self.models, self.section
        counts = {"num_tokens": share.num_tokens, "num_completions": share.num_completions}
        weights = token_weights(step.orders.table, section, self._limit, **counts)
        last = len(share.micro_batches) - 1
        local = LocalSums(len(step.groups), self.device)
        with self.engine.accumulation():
            for index, (micro_batch, row_tokens) in enumerate(zip(share.micro_batches, share.row_tokens, strict=True)):
                batch = collate(micro_batch, step.groups)
                tokens = self._tokens(step, micro_batch, batch, row_tokens, weights)
                self._backward(tokens, micro_batch, step.kl_weight, local, is_last=index == last)
                if models.critic is not None:
                    self._critic_backward(step, micro_batch, batch, row_tokens, share, local, is_last=index == last)
                self.on_progress("update")
        try:
            loss, sums = local.reduced(step.orders.table.group_ids)
            norm = self._step(learning_rate, critic_rate)
        except NonFiniteLoss as error:
            return self._not_finite(step, share, error)
        self.on_progress("step")
        return loss, norm, sums

    def _step(self, learning_rate: float, critic_rate: float) -> float:
        """Step policy and critic, both or neither; returns the policy's gradient norm."""
        critic = self.models.critic_engine
        if critic is not None:
            is_finite = [engine.has_finite_gradient() for engine in (self.engine, critic)]  # collectives: ask both
            if not all(is_finite):
                raise NonFiniteLoss(f"the gradient of policy or critic is not finite; {NOT_STEPPED}")
            critic.step(critic_rate)
        return self.engine.step(learning_rate)

    def _not_finite(self, step: _Step, share: UpdateShare, error: NonFiniteLoss) -> None:
        """Stop or skip, by setting; on every rank alike, since all saw the same sums."""
        for engine in (self.engine, self.models.critic_engine):
            if engine is not None:
                engine.discard()
        if self.section.non_finite == "stop":
            names = named_groups([step.orders.table.group_ids[position] for position in share.positions])
            what = str(error).removesuffix(f"; {NOT_STEPPED}")
            raise NonFiniteLoss(f"{what}, in the update on groups {names}; {NOT_STEPPED}") from error
        self.on_progress("skipped an update")

    def _tokens(
        self, step: _Step, micro_batch: MicroBatch, batch: Collated, row_tokens: int, weights: NDArray[np.float64]
    ) -> MicroBatchTokens:
        section, device = self.section, self.device
        options = {"want_entropy_gradient": True} if section.entropy_coefficient else {}
        logprobs, entropies = self.models.policy(batch, row_tokens, **options)
        reference = None
        if self.models.reference is not None and not self._kl_in_reward:
            reference = self.models.reference(batch, row_tokens)[0]
        rollout = torch.from_numpy(batch.rollout_logprobs).to(device)
        old = logprobs.detach() if section.old_source == "current" else rollout
        if section.old_source == "recompute":
            old = joined(micro_batch, step.passes.policy).to(device)
        per_row = np.array([weights[row.group, row.completion] for row in micro_batch], dtype=np.float64)
        has_kl = np.array([step.orders.table.has_kl[row.group] for row in micro_batch], dtype=np.float64)
        return MicroBatchTokens(
            logprobs=logprobs,
            entropies=entropies,
            old_logprobs=old,
            rollout_logprobs=rollout,
            advantages=joined(micro_batch, step.advantages.tokens).to(device),
            weights=_spread(per_row, batch, device),
            rows=torch.from_numpy(batch.rows).to(device),
            num_rows=len(micro_batch),
            reference=reference,
            has_kl=_spread(has_kl, batch, device),
            is_held=joined(micro_batch, step.held).to(device).bool() if self._holds else None,
        )

    def _backward(
        self, tokens: MicroBatchTokens, micro_batch: MicroBatch, kl_weight: float, local: LocalSums, *, is_last: bool
    ) -> None:
        if not micro_batch:
            self.engine.backward(tokens.logprobs.sum() * 0.0, is_last=is_last)
            return
        losses, sums = self._objective(tokens, kl_weight)
        self.engine.backward(losses.sum(), is_last=is_last)
        local.add(losses.detach(), sums, tokens.rows, micro_batch)

    def _critic_backward(
        self,
        step: _Step,
        micro_batch: MicroBatch,
        batch: Collated,
        row_tokens: int,
        share: UpdateShare,
        local: LocalSums,
        *,
        is_last: bool,
    ) -> None:
        models = self.models
        assert models.critic is not None and models.critic_engine is not None
        values = models.critic(batch, row_tokens)[0]
        if not micro_batch:
            models.critic_engine.backward(values.sum() * 0.0, is_last=is_last)
            return
        old, returns = (
            joined(micro_batch, arrays).to(self.device) for arrays in (step.passes.values, step.advantages.returns)
        )
        losses, is_clipped = value_losses(values, old, returns, self.section.critic.clip)
        models.critic_engine.backward(losses.sum() / share.num_tokens, is_last=is_last)
        sums = {"value_loss": losses.detach().double().sum(), "value_clipped": is_clipped.double().sum()}
        local.add_sums(sums)


def _spread(per_row: NDArray[np.float64], batch: Collated, device: torch.device) -> Tensor:
    """[N] float32: each row's value at its completion tokens."""
    return torch.from_numpy(per_row[batch.rows].astype(np.float32)).to(device)
