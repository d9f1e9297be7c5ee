"""Group relative policy optimization (GRPO, arXiv 2402.03300, equation 4 and section 4.1.2)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from learner.algorithms.dr_grpo import above_mean
from quorum.registry import Options


class GRPOOptions(Options):
    """Options of `group_standardized`."""

    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation; TRL adds 1e-4."""


def group_standardized(
    rewards: NDArray[np.float64], train_mask: NDArray[np.bool_], options: GRPOOptions
) -> NDArray[np.float64]:
    """Advantage of each completion in standard deviations of its group.

    A_i = (r_i - mean) / (std + epsilon), with the sample standard deviation (n - 1) over the trained completions. The
    division makes a group count more the less its rewards differ; `dr_grpo` leaves it out.

    Args:
        rewards: [k] reward of each completion of one group.
        train_mask: [k] which completions are trained on.
        options: epsilon.

    Returns:
        [k] advantages; 0 for untrained completions, and for all where rewards are equal or a single one is trained.

    Example:
        >>> exact = GRPOOptions(epsilon=1e-12)
        >>> group_standardized(np.array([1.0, 0.0, 0.5]), np.ones(3, bool), exact).round(6).tolist()
        [1.0, -1.0, 0.0]
    """
    advantages = above_mean(rewards, train_mask, options)
    if advantages.any():
        advantages /= np.std(np.asarray(rewards, dtype=np.float64)[train_mask], ddof=1) + options.epsilon
    return advantages
