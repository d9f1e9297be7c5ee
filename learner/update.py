"""One rank's share of one optimizer step: advantages, loss, gradient, and the sums behind `UpdateStats`.

The loss is the token mean over the whole batch, -sum(ratio * advantage) / tokens, with the global token count,
so that neither the split over ranks nor the one into micro-batches changes it. Old log-probabilities are the
current ones, detached: with one update per batch the ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from configs.schema import LearnerSection
from learner.batch import Collated, MicroBatch, collate
from learner.orders import UpdateOrders, UpdateSums
from learner.policy import Policy
from learner.registry import ALGORITHMS
from learner.zero import NOT_STEPPED, FrozenModule, ZeroEngine
from quorum.errors import NonFiniteLoss
from quorum.types import ScoredGroup

KL_CLAMP = 10.0


def kl_per_token(base_logprobs: Tensor, policy: Tensor, estimator: str) -> Tensor:
    """Estimate KL(policy || base) from log-probabilities of sampled tokens.

    Args:
        base_logprobs: [N] log-probabilities under the base model.
        policy: [N] under the policy that sampled.
        estimator: "k1" (-d), "k2" (d^2 / 2) or "k3" (exp(d) - d - 1), with d = base_logprobs - policy in [-10, 10].
    """
    d = (base_logprobs - policy).clamp(-KL_CLAMP, KL_CLAMP)
    if estimator == "k1":
        return -d
    return d * d / 2 if estimator == "k2" else torch.expm1(d) - d


class Updater:
    """Runs steps on one rank."""

    def __init__(
        self,
        policy: Policy,
        engine: ZeroEngine,
        base: FrozenModule | None,
        section: LearnerSection,
        on_progress: Callable[[str], None],
    ) -> None:
        """Bind the parts.

        Args:
            policy: the module inside `engine`.
            engine: ZeRO around it.
            base: the base model; None where the KL to it is neither penalised nor measured.
            section: the learner's configuration.
            on_progress: told the phase after each micro-batch.
        """
        self.policy, self.engine, self.base = policy, engine, base
        self.section, self.on_progress = section, on_progress
        self.is_penalised = base is not None and section.kl.coefficient > 0
        entry = ALGORITHMS[section.algorithm.name]
        self.estimate = entry.target
        self.options = entry.options.model_validate(section.algorithm.options)

    def run(self, orders: UpdateOrders, groups: Mapping[int, ScoredGroup], learning_rate: float) -> UpdateSums:
        """Take one optimizer step. A collective.

        Raises:
            NonFiniteLoss: on every rank, before the optimizer is stepped.
        """
        by_position: list[ScoredGroup | None] = [groups.get(i) for i in range(len(orders.completions))]
        kl, kl_total = None, 0.0
        if self.is_penalised:
            kl, kl_total = self._kl_sums(orders, by_position)
        advantages = {i: self._advantages(scored, None if kl is None else kl[i]) for i, scored in groups.items()}
        sums = torch.zeros(4, dtype=torch.float64, device=self.engine.device)
        last = len(orders.micro_batches) - 1
        with self.engine.accumulation():
            for index, micro_batch in enumerate(orders.micro_batches):
                batch = collate(micro_batch, by_position)
                sums += self._micro_batch(orders, index, micro_batch, batch, advantages, is_last=index == last)
                self.on_progress("update")
        loss, (entropy, gap, measured) = self._reduce_losses(sums)
        grad_norm = self.engine.step(learning_rate)
        self.on_progress("step")
        return UpdateSums(loss, grad_norm, entropy, gap, kl_total if self.is_penalised else measured, orders.num_tokens)

    def _micro_batch(
        self,
        orders: UpdateOrders,
        index: int,
        micro_batch: MicroBatch,
        batch: Collated,
        advantages: Mapping[int, NDArray[np.float64]],
        *,
        is_last: bool,
    ) -> Tensor:
        """Forward and backward of one micro-batch; returns its [4] sums of loss, entropy, gap and measured KL."""
        logprobs, entropies = self._forward(self.engine, batch, orders.row_tokens[index])
        kl = torch.zeros((), device=self.engine.device)
        if self.base is not None and not self.is_penalised:
            base_logprobs, _ = self._forward(self.base, batch, orders.row_tokens[index])
            kl = kl_per_token(base_logprobs, logprobs.detach(), self.section.kl.estimator).double().sum()
        if not micro_batch:
            self.engine.backward(logprobs.sum() * 0.0, is_last=is_last)
            return torch.zeros(4, dtype=torch.float64, device=self.engine.device)
        per_row = torch.tensor([advantages[row.group][row.completion] for row in micro_batch], dtype=torch.float32)
        per_token = per_row[torch.from_numpy(batch.rows)].to(logprobs.device)
        ratio = torch.exp(logprobs - logprobs.detach())
        loss = -(ratio * per_token).sum() / orders.num_tokens
        self.engine.backward(loss, is_last=is_last)
        gap = (logprobs.detach() - torch.from_numpy(batch.rollout_logprobs).to(logprobs.device)).abs()
        return torch.stack([loss.detach().double(), entropies.double().sum(), gap.double().sum(), kl.double()])

    def _forward(self, module: ZeroEngine | FrozenModule, batch: Collated, row_tokens: int) -> tuple[Tensor, Tensor]:
        device = self.engine.device
        return module.forward(
            torch.from_numpy(batch.input_ids).to(device),
            torch.from_numpy(batch.positions).to(device),
            torch.from_numpy(batch.targets).to(device),
            self.policy.num_chunks(row_tokens),
        )

    def _advantages(self, scored: ScoredGroup, kl: NDArray[np.float64] | None) -> NDArray[np.float64]:
        rewards = scored.rewards.astype(np.float64)
        if kl is not None and scored.kl_mask:
            rewards = rewards - self.section.kl.coefficient * kl[: len(rewards)]
        return self.estimate(rewards, scored.train_mask, self.options)

    def _kl_sums(self, orders: UpdateOrders, groups: Sequence[ScoredGroup | None]) -> tuple[NDArray[np.float64], float]:
        """KL to the base model, summed over each completion's tokens.

        Returns:
            ([P, max k] sums over all ranks, 0 where nothing was trained; their total)
        """
        assert self.base is not None
        sums = torch.zeros(len(orders.completions), max(orders.completions), dtype=torch.float64)
        for index, micro_batch in enumerate(orders.micro_batches):
            batch = collate(micro_batch, groups)
            with torch.no_grad():
                policy, _ = self._forward(self.engine, batch, orders.row_tokens[index])
            base_logprobs, _ = self._forward(self.base, batch, orders.row_tokens[index])
            kl = kl_per_token(base_logprobs, policy, self.section.kl.estimator).double().cpu().numpy()
            per_row = np.bincount(batch.rows, weights=kl, minlength=len(micro_batch))
            for row, value in zip(micro_batch, per_row, strict=False):
                sums[row.group, row.completion] = value
            self.on_progress("kl")
        sums = sums.to(self.engine.device)
        dist.all_reduce(sums)
        table = sums.cpu().numpy()
        return table, float(table.sum())

    def _reduce_losses(self, sums: Tensor) -> tuple[float, list[float]]:
        """Global loss, and the other sums; refuses a loss that is not finite on any rank."""
        world_size = self.engine.world_size
        reduced = torch.zeros(world_size + len(sums) - 1, dtype=torch.float64, device=sums.device)
        reduced[dist.get_rank()] = sums[0]
        reduced[world_size:] = sums[1:]
        dist.all_reduce(reduced)
        values = reduced.tolist()
        losses, others = values[:world_size], values[world_size:]
        bad = [f"rank {rank}: {loss}" for rank, loss in enumerate(losses) if not np.isfinite(loss)]
        if bad:
            raise NonFiniteLoss(f"the loss is not finite ({', '.join(bad)}); {NOT_STEPPED}")
        return sum(losses), others
