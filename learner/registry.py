"""Advantage estimators and policy losses by name. A new one is a pure function in a file of its own and one entry
here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from learner.algorithms.dr_grpo import above_mean
from learner.algorithms.grpo import GRPOOptions, group_standardized
from learner.algorithms.ppo import GAEOptions, generalized
from learner.algorithms.reinforce import plain
from learner.algorithms.reinforce_pp import ReturnOptions, returns_to_go
from learner.algorithms.rloo import leave_one_out
from learner.losses.cispo import WeightClipOptions, cispo
from learner.losses.gspo import SequenceClipOptions, gspo
from learner.losses.policy_gradient import policy_gradient
from learner.losses.ppo_clip import ClipOptions, ppo_clip
from quorum.registry import Entry, Registry


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How rewards become advantages."""

    estimate: Callable[..., Any]
    """Per completion: estimate(rewards [k], train_mask [k], options) -> advantages [k] of one group, finite float64, 0
    where `train_mask` is False. Per token: estimate(rewards [T], values [T] or None, options) -> [T] of one
    completion, whose own reward stands at its last token and whose KL penalty at every one."""
    level: Literal["completion", "token"] = "completion"
    is_relative: bool = True
    """Whether all advantages of a group are 0 where its trained rewards are equal."""
    is_standardized: bool = False
    """Whether advantages are brought to mean 0 and standard deviation 1 over all tokens of the step."""
    needs_critic: bool = False


ALGORITHMS: Registry = {
    "rloo": Entry(Algorithm(leave_one_out)),
    "grpo": Entry(Algorithm(group_standardized), GRPOOptions),
    "dr_grpo": Entry(Algorithm(above_mean)),
    "reinforce": Entry(Algorithm(plain, is_relative=False)),
    "reinforce_pp": Entry(
        Algorithm(returns_to_go, level="token", is_relative=False, is_standardized=True), ReturnOptions
    ),
    "reinforce_pp_baseline": Entry(Algorithm(above_mean, is_standardized=True, is_relative=False)),
    "ppo": Entry(
        Algorithm(generalized, level="token", is_relative=False, is_standardized=True, needs_critic=True), GAEOptions
    ),
}
"""Every target is an `Algorithm`."""

LOSSES: Registry = {
    "policy_gradient": Entry(policy_gradient),
    "ppo_clip": Entry(ppo_clip, ClipOptions),
    "gspo": Entry(gspo, SequenceClipOptions),
    "cispo": Entry(cispo, WeightClipOptions),
}
"""Called as target(LossInputs, options) -> TokenLosses; see `learner.losses.ratio`."""
