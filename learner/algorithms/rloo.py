"""REINFORCE with a leave-one-out baseline (RLOO, arXiv 2402.14740)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quorum.registry import Options


def leave_one_out(rewards: NDArray[np.float64], train_mask: NDArray[np.bool_], options: Options) -> NDArray[np.float64]:
    """Advantage of each completion over the mean reward of the others.

    With n trained completions, A_i = r_i - mean of the other trained rewards = n / (n - 1) * (r_i - mean).
    Completions that are not trained neither get an advantage nor count in a baseline.

    Args:
        rewards: [k] reward of each completion of one group.
        train_mask: [k] which completions are trained on.
        options: none.

    Returns:
        [k] advantages; 0 for untrained completions, for all where rewards are equal, and for a single trained one,
        which has nobody to beat.

    Example:
        >>> leave_one_out(np.array([1.0, 0.0, 0.0]), np.array([True, True, True]), Options()).tolist()
        [1.0, -0.5, -0.5]
    """
    advantages = np.zeros(len(rewards), dtype=np.float64)
    trained = np.asarray(rewards, dtype=np.float64)[train_mask]
    n = len(trained)
    if n > 1 and (trained != trained[0]).any():  # n * 0.1 is not always the sum of n of them
        advantages[train_mask] = (n * trained - trained.sum()) / (n - 1)
    return advantages
