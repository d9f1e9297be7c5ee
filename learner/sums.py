"""What an update adds up over tokens and ranks, and the check that its loss is finite."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import MicroBatch
from learner.sequence_parallel import data_group
from quorum.errors import NonFiniteLoss

SUMS = ("entropy", "gap", "kl", "clipped", "importance", "masked", "held", "value_loss", "value_clipped")
"""Named sums over trained tokens: policy entropy (nats); |learner - sampler| log-probability; KL to the reference;
tokens whose ratio was clipped; importance weights; tokens that importance masks; tokens held back by covariance; the
critic's loss; values that were clipped."""


MAX_NAMED = 8
"""Groups named in an error."""


class LocalSums:
    """This rank's loss and sums of one update, and the groups in which the loss is not finite."""

    def __init__(self, num_groups: int, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.is_bad = torch.zeros(num_groups, dtype=torch.float64, device=device)

    def add(self, losses: Tensor, sums: dict[str, Tensor], rows: Tensor, micro_batch: MicroBatch) -> None:
        """Add a micro-batch's token losses [N], its named sums, and which of its rows each token belongs to [N]."""
        self.loss += losses.double().sum()
        self.add_sums(sums)
        for row in rows[~losses.isfinite()].unique().tolist():
            self.is_bad[micro_batch[row].group] = 1.0

    def add_sums(self, sums: dict[str, Tensor]) -> None:
        """Add named sums, each a scalar."""
        for name, value in sums.items():
            self.sums[SUMS.index(name)] += value

    def reduced(self, group_ids: tuple[int, ...]) -> tuple[float, NDArray[np.float64]]:
        """Over all ranks, or where some share rows over one of each.

        Raises:
            NonFiniteLoss: naming ranks and groups.
        """
        group = data_group()
        world_size = dist.get_world_size(group)
        by_rank = torch.zeros(world_size, dtype=torch.float64, device=self.loss.device)
        by_rank[dist.get_rank(group)] = self.loss
        reduced = torch.cat([by_rank, self.sums, self.is_bad])
        dist.all_reduce(reduced, group=group)
        losses, sums, is_bad = np.split(reduced.cpu().numpy(), [world_size, world_size + len(SUMS)])
        share = dist.get_world_size() // world_size
        bad = [f"rank {rank * share}: {loss}" for rank, loss in enumerate(losses) if not np.isfinite(loss)]
        value_loss = sums[SUMS.index("value_loss")]
        if not np.isfinite(value_loss):
            bad.append(f"the critic's: {value_loss}")
        if bad:
            named = named_groups([group_ids[position] for position in np.flatnonzero(is_bad)])
            raise NonFiniteLoss(f"the loss is not finite ({', '.join(bad)}; groups {named})")
        return float(losses.sum()), sums


def named_groups(group_ids: list[int]) -> str:
    shown = ", ".join(map(str, group_ids[:MAX_NAMED])) or "unknown"
    return shown + (f" and {len(group_ids) - MAX_NAMED} more" if len(group_ids) > MAX_NAMED else "")
