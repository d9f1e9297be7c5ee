"""What every advantage estimator promises, run over the registry."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.registry import ALGORITHMS
from quorum.registry import Entry


class Case(NamedTuple):
    """Rewards of a group of three and a fourth that is not trained on; or rewards of one completion's tokens."""

    rewards: list[float]
    wanted: list[float]
    options: dict[str, Any] = {}
    values: list[float] | None = None


GROUP = [1.0, 0.0, 0.0, 5.0]
HAND_COMPUTED = {
    "rloo": Case(GROUP, [1.0, -0.5, -0.5, 0.0]),
    "grpo": Case(GROUP, [2 / np.sqrt(3), -1 / np.sqrt(3), -1 / np.sqrt(3), 0.0], {"epsilon": 1e-12}),
    "dr_grpo": Case(GROUP, [2 / 3, -1 / 3, -1 / 3, 0.0]),
    "reinforce": Case(GROUP, [1.0, 0.0, 0.0, 0.0]),
    "reinforce_pp_baseline": Case(GROUP, [2 / 3, -1 / 3, -1 / 3, 0.0]),
    "reinforce_pp": Case([-0.5, 0.0, 1.0], [-0.25, 0.5, 1.0], {"discount": 0.5}),
    "ppo": Case([0.0, 0.0, 1.0], [-0.34375, 0.125, 0.5], {"discount": 0.5, "trace": 0.5}, [0.5, 0.25, 0.5]),
}
"""By name; a new algorithm adds its own. Of ppo: errors -3/8, 0 and 1/2, each carried back by a quarter."""
TRAINED = [True, True, True, False]
PER_COMPLETION = [name for name, entry in ALGORITHMS.items() if entry.target.level == "completion"]
PER_TOKEN = [name for name, entry in ALGORITHMS.items() if entry.target.level == "token"]
RELATIVE = [name for name, entry in ALGORITHMS.items() if entry.target.is_relative]


def estimate(name: str, rewards: Any, second: Any, options: dict[str, Any] | None = None) -> np.ndarray:
    """`second`: the train mask of an algorithm per completion, values (or None) of one per token."""
    entry: Entry = ALGORITHMS[name]
    dtype = bool if entry.target.level == "completion" else np.float64
    second = None if second is None else np.asarray(second, dtype=dtype)
    return entry.target.estimate(np.asarray(rewards, dtype=np.float64), second, entry.options(**(options or {})))


def values_for(name: str, num_tokens: int) -> list[float] | None:
    return np.linspace(-1, 1, num_tokens).tolist() if ALGORITHMS[name].target.needs_critic else None


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_hand_computed_case(name):
    case = HAND_COMPUTED[name]
    second = TRAINED if ALGORITHMS[name].target.level == "completion" else case.values
    assert estimate(name, case.rewards, second, case.options).tolist() == pytest.approx(case.wanted)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_critic_and_global_standardisation_fit_the_level(name):
    algorithm = ALGORITHMS[name].target
    assert algorithm.level == "token" or not algorithm.needs_critic, "a critic gives a value per token"
    assert not (algorithm.is_relative and algorithm.is_standardized), "subtracting the step's mean breaks the promise"
    assert not (algorithm.is_relative and algorithm.level == "token"), "one completion's tokens know no group"


@pytest.mark.parametrize("name", PER_COMPLETION)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=40))
def test_advantages_are_finite_and_only_for_trained_completions(name, completions):
    rewards, mask = zip(*completions, strict=True)
    advantages = estimate(name, rewards, mask)
    assert advantages.shape == (len(rewards),) and advantages.dtype == np.float64
    assert np.isfinite(advantages).all()
    assert (advantages[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("name", PER_COMPLETION)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8), st.floats(-1e3, 1e3))
def test_an_untrained_completion_changes_no_other_s_advantage(name, rewards, other):
    alone = estimate(name, rewards, [True] * len(rewards))
    assert estimate(name, [*rewards, other], [True] * len(rewards) + [False]).tolist() == [*alone, 0.0]


@pytest.mark.parametrize("name", PER_COMPLETION)
def test_the_order_of_completions_does_not_matter(name):
    rewards, order = np.array([1.0, 0.0, 0.5, 0.0]), [2, 0, 3, 1]
    straight = estimate(name, rewards, [True] * 4)
    assert estimate(name, rewards[order], [True] * 4).tolist() == pytest.approx(straight[order].tolist())


@pytest.mark.parametrize("name", RELATIVE)
@given(st.floats(-1e6, 1e6), st.integers(1, 40), st.lists(st.floats(-10, 10), max_size=3))
def test_a_group_without_signal_has_exactly_no_advantage_where_the_algorithm_is_relative(name, reward, k, untrained):
    mask = [True] * k + [False] * len(untrained)
    assert (estimate(name, [reward] * k + untrained, mask) == 0).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_reward_that_is_not_a_number_is_not_swallowed(name):
    """The loss is then not finite, and the groups are named."""
    second = [True] * 3 if ALGORITHMS[name].target.level == "completion" else values_for(name, 3)
    assert np.isnan(estimate(name, [1.0, np.nan, 0.0], second)).any()


@pytest.mark.parametrize("name", sorted(set(PER_COMPLETION) - set(RELATIVE)))
def test_one_that_is_not_relative_says_so_because_agreement_pays(name):
    """Before the standardisation, or after it: another group of the step shifts the mean."""
    per_group = [estimate(name, [1.0, 1.0], [True] * 2), estimate(name, [1.0, 0.0], [True] * 2)]
    flat = np.concatenate(per_group) if not ALGORITHMS[name].target.is_standardized else np.array([1.0])
    assert (flat[:2] != 0).any()


@pytest.mark.parametrize("name", PER_TOKEN)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40))
def test_advantages_per_token_are_finite_and_look_ahead_only(name, rewards):
    values = values_for(name, len(rewards))
    advantages = estimate(name, rewards, values)
    assert advantages.shape == (len(rewards),) and advantages.dtype == np.float64
    assert np.isfinite(advantages).all()
    changed = estimate(name, [rewards[0] + 1, *rewards[1:]], values)
    assert changed[1:].tolist() == advantages[1:].tolist()
    assert changed[0] == pytest.approx(advantages[0] + 1)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16), st.data())
def test_dr_grpo_is_rloo_times_all_but_one_of_the_group(rewards, data):
    """(n - 1) / n with n trained completions: one scale for a whole group, the same direction."""
    mask = data.draw(st.lists(st.booleans(), min_size=len(rewards), max_size=len(rewards)))
    n = max(1, sum(mask))
    scaled = estimate("rloo", rewards, mask) * (n - 1) / n
    assert estimate("dr_grpo", rewards, mask).tolist() == pytest.approx(scaled.tolist(), abs=1e-12)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_grpo_is_dr_grpo_over_the_deviation(rewards):
    deviation = np.std(rewards, ddof=1) + 1e-6
    plain = estimate("dr_grpo", rewards, [True] * len(rewards))
    assert (estimate("grpo", rewards, [True] * len(rewards)) * deviation).tolist() == pytest.approx(plain.tolist())


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=16))
def test_ppo_trusting_returns_alone_is_reinforce_pp_less_the_values(rewards):
    values = values_for("ppo", len(rewards))
    wanted = estimate("reinforce_pp", rewards, None) - values
    assert estimate("ppo", rewards, values).tolist() == pytest.approx(wanted.tolist(), abs=1e-9)
