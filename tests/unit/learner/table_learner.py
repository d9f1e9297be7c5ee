"""An `Updater` whose models are tables: the log-probability of each token is a parameter of its own.

Tokens of all completions have different ids, by which a model finds its row. Optimizers are plain gradient descent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from configs.schema import LearnerSection, RunConfig
from learner.orders import StepFactors, StepSums, needs_reference, plan_step
from learner.update import LearnerModels, Updater
from quorum.types import TrainingBatch
from tests.builders import make_completion, make_group, make_prompt, make_receipt, make_scored
from tests.unit.learner.objective_reference import World

PROMPT = (10_000, 10_001)
AS_CONFIGURED = StepFactors()


class TableEngine:
    """Gradient descent on one table, and what it was told."""

    world_size = 1
    device = torch.device("cpu")

    def __init__(self, table: Tensor) -> None:
        self.table, self.gradients = table, []
        self.is_accumulating = False

    @contextlib.contextmanager
    def accumulation(self) -> Iterator[None]:
        yield

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        loss.backward()

    def has_finite_gradient(self) -> bool:
        return bool(self.table.grad.isfinite().all())

    def discard(self) -> None:
        self.table.grad = None

    def step(self, learning_rate: float) -> float:
        gradient = self.table.grad.clone()
        self.gradients.append(gradient.numpy())
        self.table.data -= learning_rate * gradient
        self.table.grad = None
        return float(gradient.norm())


class TableLearner:
    """One rank without a model."""

    def __init__(self, world: World, section: LearnerSection) -> None:
        self.world, self.section = world, section
        self.logprobs = torch.tensor(world.policy, dtype=torch.float64, requires_grad=True)
        self.entropies = torch.tensor(world.entropies, dtype=torch.float64, requires_grad=True)
        self.values = torch.tensor(world.values, dtype=torch.float64, requires_grad=True)
        self.engine, self.critic_engine = TableEngine(self.logprobs), TableEngine(self.values)
        reference = torch.tensor(world.reference, dtype=torch.float64)
        models = LearnerModels(torch.nn.Identity(), self.engine, lambda b, _, **o: self._policy(b, **o))  # type: ignore[arg-type]
        if needs_reference(section.kl):
            models = replace(models, reference=lambda b, _: (reference[_tokens(b)],))
        if section.algorithm.name == "ppo":
            models = replace(models, critic_engine=self.critic_engine, critic=lambda b, _: (self.values[_tokens(b)],))
        self.updater = Updater(models, section, lambda phase: None, max_completion_tokens=world.limit)

    def _policy(self, batch, want_entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        entropies = self.entropies if want_entropy_gradient else self.entropies.detach()
        return self.logprobs[_tokens(batch)], entropies[_tokens(batch)]

    def step(
        self, max_tokens: int = 10_000, learning_rate: float = 5.0, factors: StepFactors = AS_CONFIGURED
    ) -> StepSums:
        """The step's updates, in micro-batches of at most `max_tokens`; one rate for policy and critic."""
        config = RunConfig.model_validate(
            {
                "run": {"dir": "unused"},
                "model": {"path": "unused"},
                "data": {"train": [{"path": "unused.jsonl"}]},
                "rollout": {"max_completion_tokens": self.world.limit},
                "learner": self.section.model_dump() | {"max_tokens_per_micro_batch": max_tokens},
            }
        )
        batch = batch_of(self.world)
        planned = plan_step(batch, config)
        assert planned is not None
        return self.updater.run(
            replace(planned.orders[0], factors=factors),
            dict(enumerate(batch.groups)),
            lambda _: (learning_rate, learning_rate),
        )


def _tokens(batch) -> Tensor:
    return torch.from_numpy(np.asarray(batch.targets, dtype=np.int64))


def batch_of(world: World) -> TrainingBatch:
    """The step's groups as the learner gets them."""
    scored = []
    for group, has_kl in enumerate(world.has_kl):
        mine = [c for c in world.completions if c.group == group]
        completions = [
            make_completion(
                index,
                list(c.tokens),
                logprobs=world.rollout[list(c.tokens)].tolist(),
                finish_reason="length" if c.is_cut else "stop",
            )
            for index, c in enumerate(mine)
        ]
        made = make_group(completions, group_id=group, prompt=make_prompt(group, PROMPT))
        mask = [c.is_trained for c in mine]
        scored.append(make_scored(made, [c.reward for c in mine], train_mask=mask, kl_mask=has_kl))
    receipts = tuple(map(make_receipt, scored))
    return TrainingBatch(step=3, branch=0, groups=tuple(scored), receipts=receipts)
