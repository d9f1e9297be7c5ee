"""What every advantage estimator promises, run over the registry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.registry import ALGORITHMS

HAND_COMPUTED = {"rloo": [1.0, -0.5, -0.5]}
"""Advantages of the rewards 1, 0, 0 by name; a new algorithm adds its own."""


def estimate(name, rewards, mask):
    entry = ALGORITHMS[name]
    return entry.target(np.asarray(rewards, dtype=np.float64), np.asarray(mask, dtype=bool), entry.options())


@pytest.mark.parametrize("name", ALGORITHMS)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=40))
def test_advantages_are_finite_and_only_for_trained_completions(name, completions):
    rewards, mask = zip(*completions, strict=True)
    advantages = estimate(name, rewards, mask)
    assert advantages.shape == (len(rewards),)
    assert np.isfinite(advantages).all()
    assert (advantages[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.25])
@pytest.mark.parametrize("k", [1, 2, 7, 32])
def test_a_group_without_signal_has_zero_advantage(name, reward, k):
    assert (estimate(name, [reward] * k, [True] * k) == 0).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_hand_computed_case(name):
    assert estimate(name, [1.0, 0.0, 0.0], [True] * 3).tolist() == pytest.approx(HAND_COMPUTED[name])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_order_of_completions_does_not_matter(name):
    rewards, order = np.array([1.0, 0.0, 0.5, 0.0]), [2, 0, 3, 1]
    straight = estimate(name, rewards, [True] * 4)
    assert estimate(name, rewards[order], [True] * 4).tolist() == pytest.approx(straight[order].tolist())
