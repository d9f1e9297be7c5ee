"""The policy gradient (REINFORCE, Williams 1992), without a bound."""

from __future__ import annotations

from learner.losses.ratio import LossInputs, TokenLosses
from quorum.registry import Options


def policy_gradient(tokens: LossInputs, options: Options) -> TokenLosses:
    """-A per token, with the gradient -A grad log p; what sampled the token does not matter.

    Returns:
        [N] losses; nothing is clipped.
    """
    ratio = (tokens.logprobs - tokens.logprobs.detach()).exp()
    return TokenLosses(-ratio * tokens.advantages, tokens.rows < 0)
