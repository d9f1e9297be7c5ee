"""GRPO without the division by the group's standard deviation (Dr. GRPO, arXiv 2503.20783, section 3.2).

Its other half, no division by a completion's own length, is `learner.aggregation: sequence_constant`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quorum.registry import Options


def above_mean(rewards: NDArray[np.float64], train_mask: NDArray[np.bool_], options: Options) -> NDArray[np.float64]:
    """Reward of each completion above the mean of its group: A_i = r_i - mean, RLOO's times (n - 1) / n.

    Args:
        rewards: [k] reward of each completion of one group.
        train_mask: [k] which completions are trained on.
        options: none.

    Returns:
        [k] advantages; 0 for untrained completions, and for all where rewards are equal.

    Example:
        >>> above_mean(np.array([1.0, 0.0, 0.0, 0.0]), np.ones(4, bool), Options()).tolist()
        [0.75, -0.25, -0.25, -0.25]
    """
    advantages = np.zeros(len(rewards), dtype=np.float64)
    trained = np.asarray(rewards, dtype=np.float64)[train_mask]
    if len(trained) > 1 and (trained != trained[0]).any():  # also where one is nan, which the loss then reports
        advantages[train_mask] = trained - trained.mean()
    return advantages
