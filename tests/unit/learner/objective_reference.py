"""The learner's objective once more, in float64 and plain loops over completions and tokens, from the papers' formulas.

Nothing of `learner` is imported. Gradients are central differences. What a formula stops the gradient of is read from
`frozen`, the log-probabilities at the point of differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from configs.schema import LearnerSection

STEP = 1e-6
"""Of the central differences."""


@dataclass(frozen=True)
class Sampled:
    """One completion; `tokens` are indices into the flat arrays of `World`."""

    group: int
    tokens: Sequence[int]
    reward: float
    is_trained: bool = True
    is_cut: bool = False


@dataclass(frozen=True)
class World:
    """A step's completions, and per token what models said of it before the step; N tokens."""

    completions: Sequence[Sampled]
    has_kl: Sequence[bool]
    """Per group."""
    policy: np.ndarray
    rollout: np.ndarray
    reference: np.ndarray
    values: np.ndarray
    entropies: np.ndarray
    limit: int = 64

    def trained(self, section: LearnerSection) -> list[Sampled]:
        """Completions to train on."""
        return [c for c in self.completions if c.is_trained and not (section.overlong.mask and c.is_cut)]

    def updates(self, section: LearnerSection) -> list[list[Sampled]]:
        """Completions of each update of all epochs: groups in order, the first updates get what does not divide."""
        trained = self.trained(section)
        groups = sorted({c.group for c in trained})
        count = section.updates_per_step // section.epochs_per_step
        parts, start = [], 0
        for index in range(count):
            size = len(groups) // count + (1 if index < len(groups) % count else 0)
            mine = groups[start : start + size]
            parts.append([c for c in trained if c.group in mine])
            start += size
        return [part for part in parts if part] * section.epochs_per_step


def divergence(estimator: str, reference: float, policy: float) -> float:
    """Schulman's estimators with r = reference / policy: -log r, (log r)^2 / 2, (r - 1) - log r; |log r| <= 10."""
    log_r = min(max(reference - policy, -10.0), 10.0)
    return {"k1": -log_r, "k2": log_r**2 / 2, "k3": (math.exp(log_r) - 1) - log_r}[estimator]


def shaped_reward(c: Sampled, section: LearnerSection, limit: int) -> float:
    """DAPO's equation 13: 0 up to limit - cache, then linear, -penalty at the limit."""
    cache, length = section.overlong.penalty_tokens, len(c.tokens)
    if cache == 0 or length <= limit - cache:
        return c.reward
    return c.reward - section.overlong.penalty * min(1.0, (length - (limit - cache)) / cache)


def advantages(world: World, section: LearnerSection) -> tuple[np.ndarray, np.ndarray]:
    """([N] advantages, [N] returns of the critic) of the trained tokens; nan elsewhere."""
    trained = world.trained(section)
    in_reward = section.kl.coefficient if section.kl.place == "reward" else 0.0
    penalty = np.zeros(len(world.policy))
    for c in trained:
        for t in c.tokens:
            if in_reward and world.has_kl[c.group]:
                penalty[t] = in_reward * divergence(section.kl.estimator, world.reference[t], world.policy[t])
    found, returns = np.full(len(world.policy), np.nan), np.full(len(world.policy), np.nan)
    name, options = section.algorithm.name, section.algorithm.options
    for c in trained:
        reward = shaped_reward(c, section, world.limit)
        per_token = [-penalty[t] + (reward if t == c.tokens[-1] else 0.0) for t in c.tokens]
        if name == "reinforce_pp":
            gamma = options.get("discount", 1.0)
            for i, t in enumerate(c.tokens):
                found[t] = sum(gamma**j * r for j, r in enumerate(per_token[i:]))
        elif name == "ppo":
            gamma, trace = options.get("discount", 1.0), options.get("trace", 1.0)
            values = [world.values[t] for t in c.tokens] + [0.0]
            deltas = [r + gamma * values[i + 1] - values[i] for i, r in enumerate(per_token)]
            for i, t in enumerate(c.tokens):
                found[t] = sum((gamma * trace) ** j * delta for j, delta in enumerate(deltas[i:]))
                returns[t] = found[t] + world.values[t]
        else:
            found[list(c.tokens)] = _of_completion(name, options, c, world, section, penalty)
    if name in ("reinforce_pp", "reinforce_pp_baseline", "ppo"):
        everything = [found[t] for c in trained for t in c.tokens]
        mean = sum(everything) / len(everything)
        deviation = math.sqrt(sum((a - mean) ** 2 for a in everything) / len(everything))
        found = (found - mean) / (deviation + 1e-8)
    return found, returns


def _of_completion(
    name: str, options: dict, c: Sampled, world: World, section: LearnerSection, penalty: np.ndarray
) -> float:
    def total(one: Sampled) -> float:
        return shaped_reward(one, section, world.limit) - sum(penalty[t] for t in one.tokens)

    mates = [one for one in world.trained(section) if one.group == c.group]
    others = [total(one) for one in mates if one is not c]
    everyone = [total(one) for one in mates]
    mean = sum(everyone) / len(everyone)
    if name == "reinforce":
        return total(c)
    if not others:
        return 0.0
    if name == "rloo":
        return total(c) - sum(others) / len(others)
    if name == "grpo":
        deviation = math.sqrt(sum((r - mean) ** 2 for r in everyone) / (len(everyone) - 1))
        return (total(c) - mean) / (deviation + options.get("epsilon", 1e-6))
    return total(c) - mean


@dataclass(frozen=True)
class Point:
    """What an update is differentiated at."""

    now: np.ndarray
    frozen: np.ndarray
    old: np.ndarray
    advantages: np.ndarray
    entropies: np.ndarray
    kl_coefficient: float = 0.0
    held: frozenset[int] = field(default_factory=frozenset)


def update_loss(world: World, part: Sequence[Sampled], section: LearnerSection, at: Point) -> float:
    """What one update minimises."""
    total, num_tokens = 0.0, sum(len(c.tokens) for c in part)
    for c in part:
        for t in c.tokens:
            loss = _policy_loss(c, t, section, at)
            if t in at.held and section.covariance.mode == "clip":
                loss = 0.0
            loss *= _importance(c, t, world, section, at)
            if t in at.held and section.covariance.mode == "kl":
                loss += section.covariance.coefficient * abs(at.now[t] - at.old[t])
            if section.kl.place == "loss" and world.has_kl[c.group]:
                loss += at.kl_coefficient * divergence(section.kl.estimator, world.reference[t], at.now[t])
            loss -= section.entropy_coefficient * at.entropies[t]
            total += (
                loss
                / {
                    "token_mean": num_tokens,
                    "sequence_mean": len(c.tokens) * len(part),
                    "sequence_constant": (section.aggregation_length or world.limit) * len(part),
                }[section.aggregation]
            )
    return total


def _policy_loss(c: Sampled, t: int, section: LearnerSection, at: Point) -> float:
    advantage, options, name = at.advantages[t], section.loss.options, section.loss.name
    ratio = math.exp(at.now[t] - at.old[t])
    if name == "policy_gradient":  # A grad log pi, written as the gradient of A pi / sg(pi)
        return -advantage * math.exp(at.now[t] - at.frozen[t])
    if name == "cispo":
        weight = math.exp(at.frozen[t] - at.old[t])
        weight = min(max(weight, options.get("min_ratio", 0.0)), options.get("max_ratio", 5.0))
        return -weight * advantage * at.now[t]
    low, high = options.get("clip_low", 0.2), options.get("clip_high", 0.2)
    if name == "gspo":
        low, high = options.get("clip_low", 3e-4), options.get("clip_high", 4e-4)
        sequence = math.exp(sum(at.frozen[i] - at.old[i] for i in c.tokens) / len(c.tokens))
        ratio = sequence * math.exp(at.now[t] - at.frozen[t])
    surrogate = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if options.get("dual_clip") is not None and advantage < 0:
        surrogate = max(surrogate, options["dual_clip"] * advantage)
    return -surrogate


def _importance(c: Sampled, t: int, world: World, section: LearnerSection, at: Point) -> float:
    chosen = section.importance
    if chosen.mode == "off":
        return 1.0
    tokens: Iterable[int] = c.tokens if chosen.level == "sequence" else [t]
    weight = math.exp(sum(at.old[i] - world.rollout[i] for i in tokens))
    if chosen.mode == "truncate":
        return min(weight, chosen.high)
    return weight if chosen.low <= weight <= chosen.high else 0.0


def critic_loss(values: np.ndarray, world: World, part: Sequence[Sampled], returns: np.ndarray, clip: float) -> float:
    """Half the larger of two squared errors, of the value and of the value at most `clip` from the old one; mean."""
    tokens = [t for c in part for t in c.tokens]
    total = 0.0
    for t in tokens:
        near = world.values[t] + min(max(values[t] - world.values[t], -clip), clip)
        total += max((values[t] - returns[t]) ** 2, (near - returns[t]) ** 2) / 2
    return total / len(tokens)


def most_covariant(world: World, part: Sequence[Sampled], section: LearnerSection, at: Point) -> frozenset[int]:
    """KL-Cov: the share of an update's tokens whose centred log-probability times centred advantage is largest."""
    tokens = [t for c in part for t in c.tokens]
    mean_logprob = sum(at.old[t] for t in tokens) / len(tokens)
    mean_advantage = sum(at.advantages[t] for t in tokens) / len(tokens)
    covariance = {t: (at.old[t] - mean_logprob) * (at.advantages[t] - mean_advantage) for t in tokens}
    wanted = max(1, int(section.covariance.share * len(tokens)))
    return frozenset(sorted(tokens, key=lambda t: -covariance[t])[:wanted])


def gradient(function: Callable[[np.ndarray], float], at: np.ndarray, part: Sequence[Sampled]) -> np.ndarray:
    """Central differences of a function of [N] that depends on the tokens of `part` alone."""
    found = np.zeros(len(at))
    for i in (t for c in part for t in c.tokens):
        step = np.zeros(len(at))
        step[i] = STEP
        found[i] = (function(at + step) - function(at - step)) / (2 * STEP)
    return found
