"""A step's advantages: from rewards, the KL penalty in them, and a critic's values, by the configured algorithm.

Computed once per step, before its first update, and the same however completions are split over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from configs.schema import LearnerSection
from learner.kl import kl_per_token
from learner.passes import Passes, TokenArrays
from learner.registry import ALGORITHMS, Algorithm
from learner.sequence_parallel import data_group
from learner.step_table import StepTable

EPSILON = 1e-8
"""Added to the standard deviation of all tokens."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """Of this rank's completions."""

    tokens: TokenArrays
    """[T] advantage of each token"""
    returns: TokenArrays
    """[T] what the critic should have said; empty without one"""
    kl_sum: float
    """KL summed over all trained tokens of all ranks, nats; 0 where it was not part of the reward."""


class Advantage:
    """Works out the advantages of a step."""

    def __init__(self, section: LearnerSection, device: torch.device) -> None:
        entry = ALGORITHMS[section.algorithm.name]
        self.algorithm: Algorithm = entry.target
        self._options = entry.options.model_validate(section.algorithm.options)
        self._estimator, self._device = section.kl.estimator, device

    def __call__(self, table: StepTable, rows: list[tuple[int, int]], passes: Passes, kl_weight: float) -> Advantages:
        """Advantages of this rank's rows. A collective.

        Args:
            table: of the step.
            rows: (group, completion) of this rank, each once.
            passes: with policy and reference where the KL is part of the reward, and values where a critic is asked.
            kl_weight: its coefficient; 0 leaves it out.
        """
        kl = self._kl(passes) if passes.reference else {}
        if self.algorithm.level == "completion":
            per_completion, kl_sum = self._per_completion(table, kl, kl_weight)
            tokens = {row: np.full(table.num_tokens[row], per_completion[row]) for row in rows}
            return Advantages(self._finish(tokens, table), {}, kl_sum)
        tokens, returns = {}, {}
        for row in rows:
            penalty = kl_weight * kl[row] * table.has_kl[row[0]] if kl else 0.0
            rewards = np.zeros(table.num_tokens[row]) - penalty
            rewards[-1] += table.rewards[row]
            values = passes.values[row].astype(np.float64) if passes.values else None
            tokens[row] = self.algorithm.estimate(rewards, values, self._options)
            if values is not None:
                returns[row] = (tokens[row] + values).astype(np.float32)
        kl_sum = self._summed(np.array([sum(float(part.sum()) for part in kl.values())]))[0]
        return Advantages(self._finish(tokens, table), returns, kl_sum)

    def _kl(self, passes: Passes) -> dict[tuple[int, int], NDArray[np.float64]]:
        return {
            row: kl_per_token(torch.from_numpy(passes.reference[row]), torch.from_numpy(policy), self._estimator)
            .numpy()
            .astype(np.float64)
            for row, policy in passes.policy.items()
        }

    def _per_completion(
        self, table: StepTable, kl: dict[tuple[int, int], NDArray[np.float64]], kl_weight: float
    ) -> tuple[NDArray[np.float64], float]:
        """([P, K] advantages, KL summed over all ranks)"""
        sums = np.zeros(table.rewards.shape)
        for row, per_token in kl.items():
            sums[row] = per_token.sum()
        if kl_weight:
            sums = self._summed(sums)
        rewards = table.rewards - kl_weight * sums * table.has_kl[:, None]
        advantages = np.zeros(rewards.shape)
        for group, is_trained in enumerate(table.is_trained):
            advantages[group] = self.algorithm.estimate(rewards[group], is_trained, self._options)
        return advantages, float(sums.sum())

    def _finish(self, tokens: dict[tuple[int, int], NDArray[np.float64]], table: StepTable) -> TokenArrays:
        """Standardise over all tokens of all ranks where the algorithm says so; then apply penalties and weights."""
        if self.algorithm.is_standardized:
            parts = [np.zeros(0), *tokens.values()]
            flat = np.concatenate(parts)
            count, total, squares = self._summed(np.array([len(flat), flat.sum(), np.square(flat).sum()]))
            mean = total / count
            deviation = np.sqrt(max(squares / count - mean * mean, 0.0)) + EPSILON
            tokens = {row: (values - mean) / deviation for row, values in tokens.items()}
        if table.is_weighed:
            weights, penalties = table.weights, table.penalties
            tokens = {row: weights[row[0]] * (values - penalties[row[0]]) for row, values in tokens.items()}
        return {row: values.astype(np.float32) for row, values in tokens.items()}

    def _summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`values` summed over all ranks."""
        tensor = torch.from_numpy(values).to(self._device)
        dist.all_reduce(tensor, group=data_group())
        return tensor.cpu().numpy()
