"""Group sequence policy optimization (GSPO, arXiv 2507.18071, equations 5 to 7): one ratio per completion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from learner.losses.ratio import MAX_LOG_RATIO, LossInputs, TokenLosses
from quorum.registry import Options


class SequenceClipOptions(Options):
    """Options of `gspo`; the ratio's range is much narrower than a token's."""

    clip_low: Annotated[float, Field(gt=0, le=1)] = 3e-4
    """As in section 5.1 there."""
    clip_high: Annotated[float, Field(gt=0)] = 4e-4
    """As in section 5.1 there."""


def gspo(tokens: LossInputs, options: SequenceClipOptions) -> TokenLosses:
    """-min(s A, clip(s) A) at every token, where s = exp(mean over the completion of log p - log p_old).

    Written per token as in equation 13 (GSPO-token): the value of s, with the gradient of the token's own share, so
    that completions need not be summed up first. With `learner.aggregation: sequence_mean` it is equation 5.

    Returns:
        [N] losses, and where a bound cut the gradient off: at all tokens of a completion or at none.
    """
    import torch

    mean = tokens.row_mean((tokens.logprobs - tokens.old_logprobs).detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = (mean + (tokens.logprobs - tokens.logprobs.detach())).exp()  # exactly exp(mean): inside, nothing is clipped
    objective = ratio * tokens.advantages
    bounded = mean.exp().clamp(1 - options.clip_low, 1 + options.clip_high) * tokens.advantages
    is_clipped = bounded < objective.detach()
    return TokenLosses(-torch.where(is_clipped, bounded, objective), is_clipped)
