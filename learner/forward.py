"""A module's forward pass over a collated micro-batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.batch import Row, computed_tokens
from learner.collate import Collated, collate
from learner.policy import Policy
from learner.sequence_parallel import Slice, groups
from learner.zero import FrozenModule, ZeroEngine
from quorum.types import Completion, Role, RolloutGroup

PROBE = (8, 9, 5, 5)
"""Tokens of a prompt, and of the completions that share it."""
TOLERANCE = 2e-2
"""Largest relative distance of log-probabilities with a shared prompt: half precision computes on."""


class Forward:
    """Calls a module that lives under ZeRO, or a frozen one, with what it needs of a micro-batch."""

    def __init__(self, module: ZeroEngine | FrozenModule, policy: Policy, device: Any) -> None:
        self._module, self._policy, self._device = module, policy, device
        self._may_share: bool | None = None

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
            shared = {"continues": batch.continues}
            return self._module.forward(row, lengths, positions, targets, num_chunks, **shared, **options)
        assert not batch.continues, "ranks that share rows were given a plan with shared prompts"
        part = Slice(lengths, positions)
        own = (part.of_row(row), part.lengths, part.positions, part.of_tokens(targets), num_chunks)
        return tuple(part.whole(values) for values in self._module.forward(*own, **options))

    def may_share(self) -> bool:
        """Whether a prompt can be computed once for several completions: asked of the module the first time. A
        collective then."""
        if self._may_share is None:
            self._may_share = self._policy.shares_prompts(self._device) and self._shares_rightly()
        return self._may_share

    def _shares_rightly(self) -> bool:
        """By a trial on this device, where another kernel may serve than the one the model was probed with."""
        group = _probe_group(self._policy.model.config.get_text_config().vocab_size)
        prompt, counts = len(group.prompt_token_ids), [len(completion.token_ids) for completion in group.completions]
        found = []
        for is_shared in (False, True):
            rows = tuple(Row(0, i, prompt + count, prompt, is_shared) for i, count in enumerate(counts))
            with torch.no_grad():
                found.append(self(collate(rows, [group]), computed_tokens(rows))[0].float())
        return bool((found[1] - found[0]).norm() <= TOLERANCE * found[0].norm())


def _probe_group(vocabulary: int) -> RolloutGroup:
    prompt, *completions = np.split(np.arange(sum(PROBE), dtype=np.int32) % vocabulary, np.cumsum(PROBE)[:-1])
    made = (
        Completion(
            index=i,
            token_ids=ids,
            text="",
            rollout_logprobs=np.zeros(len(ids), np.float32),
            finish_reason="stop",
            spans=(),
        )
        for i, ids in enumerate(completions)
    )
    return RolloutGroup(
        group_id=0,
        prompt_id="",
        branch=0,
        role=Role.TRAIN,
        data_source="",
        prompt_token_ids=prompt,
        prompt_text="",
        completions=tuple(made),
    )
