"""A module's forward pass over a collated micro-batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from learner.collate import Collated
from learner.policy import Policy
from learner.sequence_parallel import Slice, groups
from learner.zero import FrozenModule, ZeroEngine


class Forward:
    """Calls a module that lives under ZeRO, or a frozen one, with what it needs of a micro-batch."""

    def __init__(self, module: ZeroEngine | FrozenModule, policy: Policy, device: Any) -> None:
        self._module, self._policy, self._device = module, policy, device

    def __call__(self, batch: Collated, row_tokens: int, **options: bool) -> tuple[Tensor, ...]:
        """[N] log-probabilities and entropies at the completion tokens (a critic: values alone).

        Where ranks share rows each of them gets all N, with a gradient through those of its own slice.

        Args:
            batch: of this rank; a dummy has no completion tokens.
            row_tokens: the most tokens any rank has in this micro-batch, so that all compute logits in as many parts.
            options: of the module's forward pass.
        """
        row, lengths, positions, targets = batch.inputs(self._device)
        num_chunks = self._policy.num_chunks(row_tokens)
        if groups() is None:
            return self._module.forward(row, lengths, positions, targets, num_chunks, **options)
        part = Slice(lengths, positions)
        own = (part.of_row(row), part.lengths, part.positions, part.of_tokens(targets), num_chunks)
        return tuple(part.whole(values) for values in self._module.forward(*own, **options))
