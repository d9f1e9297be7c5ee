"""One forward pass over groups that have just been drawn: token entropies and self-certainty, for the vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist

from learner.batch import MicroBatch, Row, computed_tokens, plan_rows
from learner.collate import collate
from learner.forward import Forward
from quorum.types import GroupScores, RolloutGroup


def score_groups(
    policy: Forward,
    groups: Sequence[RolloutGroup],
    max_tokens: int,
    device: torch.device,
    on_progress: Callable[[str], None],
) -> list[GroupScores]:
    """Score this rank's groups under the policy as it is. A collective: all ranks make equally many passes.

    Args:
        policy: its forward pass.
        groups: of this rank, possibly none.
        max_tokens: of one micro-batch.
        device: of the process group.
        on_progress: told the phase after each micro-batch.

    Returns:
        One per group; 0 for completions without tokens.
    """
    rows = [
        Row(i, completion.index, len(group.prompt_token_ids) + len(completion.token_ids), len(group.prompt_token_ids))
        for i, group in enumerate(groups)
        for completion in group.completions
        if len(completion.token_ids)
    ]
    plan = plan_rows(rows, 1, max_tokens, may_share=policy.may_share())
    micro_batches, row_tokens = _in_step(plan.ranks[0], device)
    found = [np.zeros((2, len(group.completions))) for group in groups]
    for micro_batch, tokens in zip(micro_batches, row_tokens, strict=True):
        batch = collate(micro_batch, groups)
        with torch.no_grad():
            _, entropies, certainties = policy(batch, tokens, want_self_certainty=True)
        counts = np.bincount(batch.rows, minlength=len(micro_batch))
        for kind, values in enumerate((entropies, certainties)):
            sums = np.bincount(batch.rows, weights=values.double().cpu().numpy(), minlength=len(micro_batch))
            for row, total, count in zip(micro_batch, sums, counts, strict=False):
                found[row.group][kind, row.completion] = total / count
        on_progress("score")
    return [GroupScores(entropies=tuple(pair[0].tolist()), self_certainties=tuple(pair[1].tolist())) for pair in found]


def _in_step(own: tuple[MicroBatch, ...], device: torch.device) -> tuple[list[MicroBatch], list[int]]:
    """This rank's micro-batches with dummies up to the most that any rank has, and the most tokens of each."""
    count = torch.tensor([len(own)], device=device)
    dist.all_reduce(count, op=dist.ReduceOp.MAX)
    micro_batches = [*own, *[()] * (int(count) - len(own))]
    tokens = torch.tensor([computed_tokens(part) for part in micro_batches], device=device)
    dist.all_reduce(tokens, op=dist.ReduceOp.MAX)
    return micro_batches, tokens.tolist()
