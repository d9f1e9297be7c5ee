"""Plain REINFORCE (Williams 1992): the reward itself is the advantage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quorum.registry import Options


def plain(rewards: NDArray[np.float64], train_mask: NDArray[np.bool_], options: Options) -> NDArray[np.float64]:
    """A_i = r_i, without a baseline: unbiased, of high variance, and never silent where all agree.

    Args:
        rewards: [k] reward of each completion of one group.
        train_mask: [k] which completions are trained on.
        options: none.

    Returns:
        [k] advantages; 0 for untrained completions.

    Example:
        >>> plain(np.array([1.0, 0.0]), np.ones(2, bool), Options()).tolist()
        [1.0, 0.0]
    """
    return np.where(train_mask, np.asarray(rewards, dtype=np.float64), 0.0)
