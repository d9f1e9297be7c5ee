"""The value model of PPO: a causal language model whose output layer is one number per position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learner.body import run_body
from learner.policy import Policy


class ValueModel(nn.Module):
    """Predicts, before each completion token, the return still to come."""

    def __init__(self, policy: Policy) -> None:
        """Take over the body of a model; its output layer is dropped for a fresh value head that starts at 0.

        Args:
            policy: around a freshly loaded model, which nobody else uses.
        """
        super().__init__()
        self.model = policy.model
        self.model.set_output_embeddings(None)
        self.autocast = policy.autocast
        hidden = policy.model.config.get_text_config().hidden_size
        self.head = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        input_ids: Tensor,
        lengths: Sequence[int],
        positions: Tensor,
        targets: Tensor,
        num_chunks: int = 1,
        *,
        continues: Sequence[int] = (),
    ) -> tuple[Tensor]:
        """Values at `positions`; arguments as of `Policy.forward`, of which targets and chunks play no part.

        Returns:
            ([N] float32 values with gradient,)
        """
        with torch.autocast(input_ids.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            hidden = run_body(self.model, input_ids, lengths, continues)[positions]
        return (self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float(),)


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Squared error of the critic, pessimistic where it moved more than `clip` (PPO's reference implementation).

    Args:
        values: [N] with gradient.
        old_values: [N] before the step.
        returns: [N] what they should have been.
        clip: largest move that still counts; None: no limit.

    Returns:
        ([N] halved squared errors, [N] bool where the clipped value counted)

    Example:
        >>> losses, clipped = value_losses(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0]), 0.5)
        >>> losses.tolist(), clipped.tolist()
        ([1.125], [True])
    """
    plain = (values - returns).square()
    if clip is None:
        return plain / 2, torch.zeros_like(plain, dtype=torch.bool)
    near = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return torch.maximum(plain, near) / 2, near > plain
