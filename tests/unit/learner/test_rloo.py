"""Leave-one-out advantages by hand."""

import numpy as np
import pytest

from learner.algorithms.rloo import leave_one_out
from quorum.registry import Options


def advantages(rewards, mask=None):
    rewards = np.asarray(rewards, dtype=np.float64)
    mask = np.ones(len(rewards), dtype=bool) if mask is None else np.asarray(mask)
    return leave_one_out(rewards, mask, Options()).tolist()


def test_each_completion_is_compared_with_the_mean_of_the_others():
    assert advantages([1, 0, 0, 1]) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


def test_untrained_completions_neither_get_nor_shift_an_advantage():
    assert advantages([1, 0, 5], [True, True, False]) == [1.0, -1.0, 0.0]


def test_a_single_trained_completion_has_no_advantage():
    assert advantages([1, 0], [True, False]) == [0.0, 0.0]
    assert advantages([1, 0], [False, False]) == [0.0, 0.0]
