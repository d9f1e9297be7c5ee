"""PPO's clipped surrogate (arXiv 1707.06347, equation 7), with separate bounds (DAPO, arXiv 2503.14476, equation 8) and
the dual clip (arXiv 1912.09729, equation 3)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from learner.losses.ratio import LossInputs, TokenLosses
from quorum.registry import Options


class ClipOptions(Options):
    """Options of `ppo_clip`."""

    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Ratios below 1 - clip_low give no gradient where the advantage is negative."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """Ratios above 1 + clip_high give none where it is positive; DAPO raises it to 0.28 (clip-higher)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Ratios above it give none where the advantage is negative either; verl's default is 3. None: no such bound."""


def ppo_clip(tokens: LossInputs, options: ClipOptions) -> TokenLosses:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) per token; with `dual_clip` c at least c A where A < 0.

    Equal to the policy gradient, in value and gradient, where every ratio is 1.

    Returns:
        [N] losses, and where a bound cut the gradient off.
    """
    import torch

    ratio, advantages = tokens.ratio(), tokens.advantages
    objective = ratio * advantages
    bounded = ratio.clamp(1 - options.clip_low, 1 + options.clip_high) * advantages
    is_clipped = bounded < objective
    losses = -torch.where(is_clipped, bounded, objective)
    if options.dual_clip is not None:
        floor = options.dual_clip * advantages
        is_below = (advantages < 0) & (objective < floor)
        losses, is_clipped = torch.where(is_below, -floor, losses), is_clipped | is_below
    return TokenLosses(losses, is_clipped)
