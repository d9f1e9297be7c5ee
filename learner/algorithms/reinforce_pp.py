"""REINFORCE++ (arXiv 2501.03262): returns to go, normalised over the whole batch instead of within groups."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from quorum.registry import Options


class ReturnOptions(Options):
    """Options of `returns_to_go`."""

    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """gamma, per token."""


def returns_to_go(
    rewards: NDArray[np.float64], values: NDArray[np.float64] | None, options: ReturnOptions
) -> NDArray[np.float64]:
    """Discounted sum of the rewards from each token on: A_t = sum over i >= t of gamma^(i - t) r_i.

    The rewards hold minus the KL penalty at each token and the completion's own reward at the last (equation 8 there).
    The caller subtracts the mean and divides by the standard deviation of all tokens of the batch (equation 9).

    Args:
        rewards: [T] of one completion.
        values: unused; None.
        options: discount.

    Example:
        >>> returns_to_go(np.array([-0.5, 0.0, 1.0]), None, ReturnOptions(discount=0.5)).tolist()
        [-0.25, 0.5, 1.0]
    """
    returns = np.zeros(len(rewards), dtype=np.float64)
    ahead = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        ahead = rewards[t] + options.discount * ahead
        returns[t] = ahead
    return returns
