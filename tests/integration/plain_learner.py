"""A learner in one process and plain float64 torch: transformers, AdamW, and the gradient of the objective's reference.

Completions go through the model one by one. The reference differentiates the loss by the log-probabilities, autograd
these by the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from configs.schema import LearnerSection
from quorum.types import ScoredGroup
from tests.unit.learner.objective_reference import (
    Point,
    Sampled,
    World,
    advantages,
    critic_loss,
    gradient,
    most_covariant,
    update_loss,
)


@dataclass(frozen=True)
class StepResult:
    """Means over a step's updates."""

    loss: float
    grad_norm: float
    value_loss: float
    """Weighted by tokens."""


class PlainLearner:
    """What real ranks must agree with."""

    def __init__(self, path: Path, section: LearnerSection, limit: int) -> None:
        self.section, self.limit = section, limit
        self.policy = _load(path)
        self.reference = _load(path).requires_grad_(False)
        self.body = _load(path).base_model
        self.head = torch.zeros(self.body.config.hidden_size, dtype=torch.float64, requires_grad=True)
        self.policy_optimizer = self._adam(list(self.policy.parameters()), section.learning_rate)
        self.critic_optimizer = self._adam([*self.body.parameters(), self.head], section.critic.learning_rate)

    def _adam(self, parameters: list[Any], rate: float) -> torch.optim.AdamW:
        section = self.section
        return torch.optim.AdamW(parameters, rate, betas=section.betas, weight_decay=section.weight_decay)

    def step(self, groups: Sequence[ScoredGroup]) -> StepResult:
        """All updates of one step."""
        section = self.section
        with torch.no_grad():
            policy, reference = self._scores(self.policy, groups)[0], self._scores(self.reference, groups)[0]
            values = self._values(groups)
        world = self._world(groups, policy.numpy(), reference.numpy(), values.numpy())
        wanted, returns = advantages(world, section)
        losses, norms, errors = [], [], []
        for part in world.updates(section):
            scores = self._scores(self.policy, groups)
            now, entropies = (values.detach().numpy() for values in scores)
            old = {"current": now, "rollout": world.rollout, "recompute": world.policy}[section.old_source]
            at = Point(now, now, old, wanted, entropies, section.kl.coefficient)
            if section.covariance.mode == "kl":
                at = Point(**{**vars(at), "held": most_covariant(world, part, section, at)})

            def loss_of(moved: np.ndarray, part=part, at=at, world=world) -> float:
                return update_loss(world, part, section, Point(**{**vars(at), "now": moved}))

            def bonus_of(moved: np.ndarray, part=part, at=at, world=world) -> float:
                return update_loss(world, part, section, Point(**{**vars(at), "entropies": moved}))

            losses.append(loss_of(now))
            by_scores = gradient(loss_of, now, part), gradient(bonus_of, entropies, part)
            norms.append(self._apply(self.policy_optimizer, scores, by_scores))
            if section.algorithm.name == "ppo":
                values = self._values(groups)

                def error_of(moved: np.ndarray, part=part, world=world) -> float:
                    return critic_loss(moved, world, part, returns, section.critic.clip)

                before = values.detach().numpy()
                errors.append((error_of(before), sum(len(c.tokens) for c in part)))
                self._apply(self.critic_optimizer, [values], [gradient(error_of, before, part)])
        value_loss = sum(error * n for error, n in errors) / max(1, sum(n for _, n in errors))
        return StepResult(float(np.mean(losses)), float(np.mean(norms)), float(value_loss))

    def _apply(
        self, optimizer: torch.optim.AdamW, outputs: Sequence[Tensor], by_outputs: Sequence[np.ndarray]
    ) -> float:
        optimizer.zero_grad()
        torch.autograd.backward(list(outputs), list(map(torch.from_numpy, by_outputs)))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.section.max_grad_norm)
        optimizer.step()
        return float(norm)

    def weights(self) -> Tensor:
        """All weights, flat in name order."""
        state = dict(self.policy.named_parameters())
        return torch.cat([state[name].detach().reshape(-1) for name in sorted(state)])

    def _scores(self, model: Any, groups: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor]:
        """([N] log-probabilities, [N] entropies)"""
        logprobs, entropies = [], []
        for prompt, completion in _sequences(groups):
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            everything = torch.log_softmax(logits, -1)
            logprobs.append(everything[range(len(completion)), completion])
            entropies.append(-(everything.exp() * everything).sum(-1))
        return torch.cat(logprobs), torch.cat(entropies)

    def _values(self, groups: Sequence[ScoredGroup]) -> Tensor:
        found = []
        for prompt, completion in _sequences(groups):
            hidden = self.body(torch.tensor([prompt + completion])).last_hidden_state[0]
            found.append(hidden[len(prompt) - 1 : -1] @ self.head)
        return torch.cat(found)

    def _world(
        self, groups: Sequence[ScoredGroup], policy: np.ndarray, reference: np.ndarray, values: np.ndarray
    ) -> World:
        completions, rollout, used = [], [], 0
        for position, scored in enumerate(groups):
            for completion, reward, is_trained in zip(
                scored.group.completions, scored.rewards, scored.train_mask, strict=True
            ):
                tokens = range(used, used := used + len(completion.token_ids))
                completions.append(Sampled(position, tokens, float(reward), bool(is_trained)))
                rollout.append(completion.rollout_logprobs.astype(np.float64))
        has_kl = [scored.kl_mask for scored in groups]
        none = np.zeros(used)
        return World(completions, has_kl, policy, np.concatenate(rollout), reference, values, none, self.limit)


def _load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)


def _sequences(groups: Sequence[ScoredGroup]) -> list[tuple[list[int], list[int]]]:
    return [
        (scored.group.prompt_token_ids.tolist(), completion.token_ids.tolist())
        for scored in groups
        for completion in scored.group.completions
    ]
