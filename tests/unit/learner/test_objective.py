"""The updates of a step against an independent float64 reference: values, and gradients by finite differences."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import LearnerSection
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

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from learner.orders import StepFactors, StepSums  # noqa: E402
from learner.registry import ALGORITHMS  # noqa: E402
from tests.unit.learner.table_learner import TableLearner  # noqa: E402

RATE = 5.0
"""Of gradient descent: moves log-probabilities of the order of 0.1, so that bounds matter in later updates."""


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_world(seed: int = 0, num_groups: int = 4, k: int = 4, gap: float = 0.5) -> World:
    """Random completions of 1 to 9 tokens; the last group has no KL, and of the first one a completion is untrained."""
    rng = np.random.default_rng(seed)
    completions, used = [], 0
    for group, index in itertools.product(range(num_groups), range(k)):
        length = int(rng.integers(1, 10))
        is_trained = not (group == 0 and index == 1)
        reward = float(np.float32(rng.normal())) if index > 1 else float(index)
        tokens = range(used, used + length)
        completions.append(Sampled(group, tokens, reward, is_trained, is_cut=length == 9))
        used += length

    def column(scale: float, center: float = 0.0) -> np.ndarray:
        return (center + scale * rng.normal(size=used)).astype(np.float32).astype(np.float64)

    policy = np.minimum(column(0.5, -1.5), -0.05).astype(np.float32).astype(np.float64)
    rollout, reference = (
        (policy + gap * rng.normal(size=used)).astype(np.float32).astype(np.float64) for _ in range(2)
    )
    has_kl = [group < num_groups - 1 for group in range(num_groups)]
    return World(completions, has_kl, policy, rollout, reference, column(0.5), np.abs(column(1.0)), limit=10)


def section_of(**settings) -> LearnerSection:
    made = LearnerSection.model_validate(settings)
    assert made.problems(top_p=1.0) == []
    return made


def check(world: World, section: LearnerSection, max_tokens: int = 10_000) -> tuple[TableLearner, StepSums]:
    """Take a step, and the same one by the reference; every update's loss and gradient must agree."""
    learner = TableLearner(world, section)
    sums = learner.step(max_tokens, RATE)
    wanted, returns = advantages(world, section)
    now, values, losses = world.policy.copy(), world.values.copy(), []
    for index, part in enumerate(world.updates(section)):
        old = {"current": now, "rollout": world.rollout, "recompute": world.policy}[section.old_source]
        at = Point(now, now, old, wanted, world.entropies, section.kl.coefficient)
        if section.covariance.mode == "kl":
            at = Point(**{**vars(at), "held": most_covariant(world, part, section, at)})
        losses.append(update_loss(world, part, section, at))

        def loss_of(moved, part=part, at=at):
            return update_loss(world, part, section, Point(**{**vars(at), "now": moved}))

        expected = gradient(loss_of, now, part)
        np.testing.assert_allclose(learner.engine.gradients[index], expected, rtol=2e-5, atol=2e-8)
        now = now - RATE * learner.engine.gradients[index]
        if section.algorithm.name == "ppo":

            def error_of(moved, part=part):
                return critic_loss(moved, world, part, returns, section.critic.clip)

            expected = gradient(error_of, values, part)
            np.testing.assert_allclose(learner.critic_engine.gradients[index], expected, rtol=2e-5, atol=2e-8)
            values = values - RATE * learner.critic_engine.gradients[index]
    assert sums.num_updates == len(losses)
    assert sums.loss == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-7)
    return learner, sums


CLOSE = {"name": "ppo_clip", "options": {"clip_low": 0.02, "clip_high": 0.03, "dual_clip": 1.05}}
RECOMPUTE = {"old_logprobs": "recompute", "updates_per_step": 4, "epochs_per_step": 2}
WIDE = {"name": "gspo", "options": {"clip_low": 0.08, "clip_high": 0.1}}
CONFIGURATIONS = {
    "rloo": {},
    "rloo, k3 in the reward": {"kl": {"coefficient": 0.3}},
    "rloo, k1 in the reward": {"kl": {"coefficient": 0.3, "estimator": "k1"}},
    "rloo, k2 in the reward": {"kl": {"coefficient": 0.3, "estimator": "k2"}},
    "grpo, k3 in the loss": {"algorithm": "grpo", "kl": {"coefficient": 0.3, "place": "loss"}},
    "k2 in the loss": {"kl": {"coefficient": 0.3, "place": "loss", "estimator": "k2"}},
    "k1 in the loss": {"kl": {"coefficient": 0.3, "place": "loss", "estimator": "k1"}},
    "grpo, sequence mean": {"algorithm": "grpo", "aggregation": "sequence_mean"},
    "dr_grpo, constant, dual clip": {
        "algorithm": "dr_grpo",
        "aggregation": "sequence_constant",
        "aggregation_length": 7,
        "loss": CLOSE,
        **RECOMPUTE,
    },
    "dr_grpo, the limit": {"algorithm": "dr_grpo", "aggregation": "sequence_constant"},
    "reinforce, policy gradient": {"algorithm": "reinforce", "loss": "policy_gradient", **RECOMPUTE},
    "reinforce_pp, k2 in the reward": {
        "algorithm": {"name": "reinforce_pp", "options": {"discount": 0.9}},
        "kl": {"coefficient": 0.3, "estimator": "k2"},
    },
    "reinforce_pp_baseline": {"algorithm": "reinforce_pp_baseline", "updates_per_step": 2},
    "ppo": {
        "algorithm": {"name": "ppo", "options": {"discount": 0.9, "trace": 0.8}},
        "kl": {"coefficient": 0.3},
        "critic": {"clip": 0.02},
        "loss": CLOSE,
        **RECOMPUTE,
    },
    "gspo": {"loss": {"name": "gspo", "options": {"clip_low": 0.1, "clip_high": 0.2}}, **RECOMPUTE},
    "gspo, the samplers' old ones": {"loss": "gspo", "aggregation": "sequence_mean", "old_logprobs": "rollout"},
    "gspo, far from the samplers": {"loss": WIDE, "old_logprobs": "rollout"},
    "cispo": {"loss": {"name": "cispo", "options": {"max_ratio": 1.3}}, "old_logprobs": "rollout"},
    "truncated tokens": {"importance": {"mode": "truncate", "high": 1.2}},
    "truncated sequences": {"importance": {"mode": "truncate", "high": 1.2, "level": "sequence"}, **RECOMPUTE},
    "masked tokens": {"importance": {"mode": "mask", "low": 0.7, "high": 1.5}, **RECOMPUTE},
    "masked sequences": {"importance": {"mode": "mask", "low": 0.5, "high": 2.0, "level": "sequence"}},
    "kl_cov": {"covariance": {"mode": "kl", "share": 0.2, "coefficient": 0.7}, **RECOMPUTE, "loss": CLOSE},
    "overlong penalty": {"overlong": {"penalty_tokens": 6, "penalty": 0.5}, "algorithm": "grpo"},
    "overlong masked": {"overlong": {"mask": True}, "algorithm": "grpo", "aggregation": "sequence_mean"},
    "more updates than groups": {"updates_per_step": 8},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("max_tokens", [12, 10_000])
def test_a_step_equals_the_reference_in_value_and_gradient(name, max_tokens):
    section = section_of(**CONFIGURATIONS[name])
    _, sums = check(make_world(), section, max_tokens)
    if section.loss.options:
        assert 0 < sums.sums["clipped"] < sums.num_tokens
    if section.algorithm.name == "ppo":
        assert 0 < sums.sums["value_clipped"] < sums.num_tokens


SETTINGS = st.fixed_dictionaries(
    {
        "algorithm": st.sampled_from(sorted(ALGORITHMS)),
        "loss": st.sampled_from(["policy_gradient", "cispo", WIDE, CLOSE]),
        "aggregation": st.sampled_from(["token_mean", "sequence_mean", "sequence_constant"]),
        "old_logprobs": st.sampled_from(["auto", "recompute"]),
        "updates_per_step": st.sampled_from([1, 2, 4]),
        "kl": st.fixed_dictionaries(
            {
                "coefficient": st.sampled_from([0.0, 0.2]),
                "place": st.sampled_from(["reward", "loss"]),
                "estimator": st.sampled_from(["k1", "k2", "k3"]),
            }
        ),
        "importance": st.fixed_dictionaries(
            {
                "mode": st.sampled_from(["off", "truncate", "mask"]),
                "level": st.sampled_from(["token", "sequence"]),
                "low": st.just(0.5),
            }
        ),
    }
)


@hypothesis.settings(deadline=None)
@given(SETTINGS, st.integers(0, 1000), st.sampled_from([1, 30, 10_000]))
def test_any_combination_of_settings_equals_the_reference(settings, seed, max_tokens):
    section = LearnerSection.model_validate(settings)
    hypothesis.assume(not section.problems(top_p=1.0))
    check(make_world(seed, num_groups=3, k=3), section, max_tokens)


def test_the_entropy_coefficient_rewards_entropy():
    """Its gradient is minus the coefficient times each token's weight in the loss."""
    world, section = make_world(), section_of(entropy_coefficient=0.2, aggregation="sequence_mean")
    learner, _ = check(world, section)
    wanted, _ = advantages(world, section)
    [part] = world.updates(section)

    def loss_of(entropies):
        return update_loss(world, part, section, Point(world.policy, world.policy, world.policy, wanted, entropies))

    expected = gradient(loss_of, world.entropies, part)
    np.testing.assert_allclose(learner.entropies.grad.numpy(), expected, rtol=2e-5, atol=2e-8)


def test_clip_cov_stops_the_gradient_of_as_many_tokens_of_the_range_and_of_no_others():
    """The draw is random; given which tokens it took, loss and gradient follow."""
    world = make_world(seed=2)
    chosen = {"mode": "clip", "share": 0.1, "low": 0.1, "high": 2.0}
    settings = {"old_logprobs": "rollout", "loss": "policy_gradient", "algorithm": "reinforce_pp_baseline"}
    section = section_of(covariance=chosen, **settings)
    learner = TableLearner(world, section)
    sums = learner.step()
    [found] = learner.engine.gradients
    plain = check(world, section_of(**settings))[0].engine.gradients[0]
    held = set(np.flatnonzero((found == 0) & (plain != 0)).tolist())
    trained = [t for c in world.trained(section) for t in c.tokens]
    assert len(held) == int(0.1 * len(trained)) == sums.sums["held"]
    wanted, _ = advantages(world, section)
    logprobs = world.rollout - np.mean([world.rollout[t] for t in trained])
    covariance = logprobs * (wanted - np.mean([wanted[t] for t in trained]))
    assert all(0.1 <= covariance[t] <= 2.0 for t in held)
    at = Point(world.policy, world.policy, world.rollout, wanted, world.entropies, held=frozenset(held))
    [part] = world.updates(section)
    assert sums.loss == pytest.approx(update_loss(world, part, section, at), rel=1e-5)
    others = [t for t in trained if t not in held]
    np.testing.assert_allclose(found[others], plain[others], rtol=1e-12)


def test_gspo_with_the_sequence_mean_is_equation_5_of_the_paper():
    """-1/G sum of min(s A, clip(s) A) over completions: its gradient goes through the whole sequence ratio."""
    world = make_world(gap=0.2)
    loss = {"name": "gspo", "options": {"clip_low": 0.05, "clip_high": 0.1}}
    section = section_of(loss=loss, aggregation="sequence_mean", old_logprobs="rollout")
    learner = TableLearner(world, section)
    sums = learner.step()
    [part] = world.updates(section)
    wanted, _ = advantages(world, section)

    def equation_5(now):
        total = 0.0
        for c in part:
            tokens = list(c.tokens)
            ratio = np.exp(np.mean(now[tokens] - world.rollout[tokens]))
            total -= min(ratio * wanted[tokens[0]], np.clip(ratio, 0.95, 1.1) * wanted[tokens[0]])
        return total / len(part)

    assert 0 < sums.sums["clipped"] < sums.num_tokens
    assert sums.loss == pytest.approx(equation_5(world.policy), rel=1e-5)
    expected = gradient(equation_5, world.policy, part)
    np.testing.assert_allclose(learner.engine.gradients[0], expected, rtol=2e-5, atol=2e-8)


@pytest.mark.parametrize("place", ["reward", "loss"])
def test_a_steps_factors_are_those_settings_times_as_much(place):
    world = make_world()
    mild = section_of(kl={"coefficient": 0.1, "place": place}, updates_per_step=2)
    strict = section_of(kl={"coefficient": 0.4, "place": place}, updates_per_step=2)
    turned, plain, wanted = (TableLearner(world, section) for section in (mild, mild, strict))
    sums = turned.step(learning_rate=2.0, factors=StepFactors(learning_rate=0.25, kl=4.0))
    expected = wanted.step(learning_rate=0.5)
    plain.step(learning_rate=0.5)
    assert sums.learning_rate == 0.5 and sums.kl_coefficient == pytest.approx(0.4)
    assert sums.loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_allclose(turned.logprobs.detach(), wanted.logprobs.detach(), rtol=1e-12)
    assert not np.allclose(turned.logprobs.detach(), plain.logprobs.detach()), "the KL weight matters here"


def test_tokens_that_importance_masks_have_exactly_no_gradient():
    world = make_world()
    section = section_of(importance={"mode": "mask", "low": 0.8, "high": 1.25}, algorithm="reinforce_pp_baseline")
    learner = TableLearner(world, section)
    sums = learner.step()
    trained = [t for c in world.trained(section) for t in c.tokens]
    weights = np.exp(world.policy - world.rollout)
    masked = [t for t in trained if not 0.8 <= weights[t] <= 1.25]
    assert 0 < len(masked) == sums.sums["masked"] < len(trained)
    assert (learner.engine.gradients[0][masked] == 0).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_untrained_completions_have_exactly_no_gradient_and_change_nothing(name):
    """Whatever their reward; a cut completion under overlong.mask is one of them."""
    world = make_world()
    section = section_of(algorithm=name, overlong={"mask": True}, **RECOMPUTE)
    plain = check(world, section)[0].engine.gradients
    used = {t for c in world.trained(section) for t in c.tokens}
    unused = sorted(set(range(len(world.policy))) - used)
    other = [
        c if c in world.trained(section) else Sampled(c.group, c.tokens, 99.0, c.is_trained, c.is_cut)
        for c in world.completions
    ]
    shifted = TableLearner(World(**{**vars(world), "completions": other}), section)
    shifted.step()
    for before, after in zip(plain, shifted.engine.gradients, strict=True):
        assert (before[unused] == 0).all()
        assert np.array_equal(before, after)


@pytest.mark.parametrize("name", [name for name, entry in ALGORITHMS.items() if entry.target.is_relative])
def test_groups_without_signal_have_exactly_no_gradient_under_relative_algorithms(name):
    world = make_world()
    same = [Sampled(c.group, c.tokens, 0.1 * c.group, c.is_trained) for c in world.completions]
    learner = TableLearner(World(**{**vars(world), "completions": same}), section_of(algorithm=name))
    learner.step()
    assert (learner.engine.gradients[0] == 0).all()


def test_an_adaptive_coefficient_moves_by_the_clipped_error_of_each_step():
    """Steps far above the target: error 0.2, 15 completions over a horizon of 100; then the next step uses it."""
    kl = {"coefficient": 0.3, "place": "loss", "target": 1e-6, "horizon": 100}
    learner = TableLearner(make_world(), section_of(kl=kl))
    assert learner.step().kl_coefficient == pytest.approx(0.3)
    assert learner.step().kl_coefficient == pytest.approx(0.3 * (1 + 0.2 * 15 / 100))
    far = {**kl, "target": 1e6}
    learner = TableLearner(make_world(), section_of(kl={**far, "place": "reward"}))
    learner.step()
    assert learner.step().kl_coefficient == pytest.approx(0.3 * (1 - 0.2 * 15 / 100))
