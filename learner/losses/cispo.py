"""Clipped importance-sampling policy optimization (CISPO, MiniMax-M1, arXiv 2506.13585, equations 4 and 5)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from learner.losses.ratio import LossInputs, TokenLosses
from quorum.registry import Options


class WeightClipOptions(Options):
    """Options of `cispo`."""

    min_ratio: Annotated[float, Field(ge=0)] = 0.0
    """Smallest weight; the paper sets no lower bound."""
    max_ratio: Annotated[float, Field(gt=0)] = 5.0
    """Largest weight; 5 as in arXiv 2510.13786."""


def cispo(tokens: LossInputs, options: WeightClipOptions) -> TokenLosses:
    """-sg(clip(ratio)) A log p per token: the weight is bounded, and no token loses its gradient.

    Returns:
        [N] losses, and where the weight was bounded.
    """
    ratio = tokens.ratio().detach()
    weight = ratio.clamp(options.min_ratio, options.max_ratio)
    return TokenLosses(-weight * tokens.advantages * tokens.logprobs, weight != ratio)
