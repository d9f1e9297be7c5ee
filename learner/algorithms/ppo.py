"""Proximal policy optimization with a critic: generalized advantage estimation (arXiv 1506.02438, 1707.06347)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from quorum.registry import Options


class GAEOptions(Options):
    """Options of `generalized`."""

    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """gamma, per token."""
    trace: Annotated[float, Field(ge=0, le=1)] = 1.0
    """lambda: 1 trusts returns alone, 0 the critic's next value alone."""


def generalized(
    rewards: NDArray[np.float64], values: NDArray[np.float64] | None, options: GAEOptions
) -> NDArray[np.float64]:
    """Advantage of each token over the critic's expectation.

    delta_t = r_t + gamma V_(t+1) - V_t and A_t = delta_t + gamma lambda A_(t+1), with V after the last token 0. The
    critic learns the returns A + V; the caller then standardises A over all tokens of the batch.

    Args:
        rewards: [T] of one completion.
        values: [T] the critic's value before each token.
        options: discount and trace.

    Example:
        >>> td = GAEOptions(trace=0.0)
        >>> generalized(np.array([0.0, 1.0]), np.array([0.5, 0.25]), td).tolist()
        [-0.25, 0.75]
    """
    assert values is not None, "generalized advantages need a critic's values"
    advantages = np.zeros(len(rewards), dtype=np.float64)
    ahead, value_ahead = 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + options.discount * value_ahead - values[t]
        ahead = delta + options.discount * options.trace * ahead
        advantages[t], value_ahead = ahead, values[t]
    return advantages
