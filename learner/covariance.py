"""Which tokens KL-Cov and Clip-Cov hold back: those whose log-probability and advantage rise together most
(arXiv 2505.22617, section 4.2). Chosen among all tokens of an update, whichever rank trains on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from configs.schema import CovarianceSection
from learner.orders import UpdateShare
from learner.passes import RowKey, TokenArrays
from learner.sequence_parallel import data_group
from learner.step_table import StepTable


def held_tokens(
    logprobs: NDArray[np.float64],
    advantages: NDArray[np.float64],
    section: CovarianceSection,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Choose tokens by the product of their centred log-probability and centred advantage (equation 11 there).

    Args:
        logprobs: [N] of all tokens of an update, before it.
        advantages: [N]
        section: kl takes the `share` of largest covariance; clip draws as many among those in [low, high].
        rng: for the draw.

    Returns:
        [N] True for chosen tokens, at least one with kl; fewer with clip where the range holds fewer.
    """
    covariance = (logprobs - logprobs.mean()) * (advantages - advantages.mean())
    wanted = max(1, int(section.share * len(covariance)))
    if section.mode == "kl":
        chosen = np.argsort(-covariance, kind="stable")[:wanted]
    else:
        inside = np.flatnonzero((covariance >= section.low) & (covariance <= section.high))
        chosen = rng.permutation(inside)[:wanted]
    held = np.zeros(len(covariance), dtype=np.bool_)
    held[chosen] = True
    return held


def hold(
    table: StepTable,
    share: UpdateShare,
    old_logprobs: Mapping[RowKey, NDArray[np.float32]],
    advantages: Mapping[RowKey, NDArray[np.float32]],
    section: CovarianceSection,
    rng: np.random.Generator,
    device: torch.device,
) -> TokenArrays:
    """Choose among all tokens of an update. A collective.

    Args:
        table: of the step.
        share: this rank's part of the update.
        old_logprobs: [T] of each of this rank's completions.
        advantages: [T] likewise.
        section: how to choose.
        rng: in the same state on every rank.
        device: of the process group.

    Returns:
        [T] of each of this rank's completions, 1 where a token is held back.
    """
    places, used = {}, 0
    for group in share.positions:
        for completion in map(int, np.flatnonzero(table.is_trained[group])):
            length = int(table.num_tokens[group, completion])
            places[group, completion] = slice(used, used + length)
            used += length
    columns = np.zeros((2, used))
    rows = [(row.group, row.completion) for micro_batch in share.micro_batches for row in micro_batch]
    for row in rows:
        columns[:, places[row]] = old_logprobs[row], advantages[row]
    everyone = torch.from_numpy(columns).to(device)
    dist.all_reduce(everyone, group=data_group())
    logprobs, values = everyone.cpu().numpy()
    held = held_tokens(logprobs, values, section, rng).astype(np.float32)
    return {row: held[places[row]] for row in rows}
