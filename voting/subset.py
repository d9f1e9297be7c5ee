"""Which of a group's completions are trained on, when more vote than train. Pure."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from configs.schema import TrainSubsetSection
from quorum.types import Tally
from voting.election import lot


def choose_trained(tally: Tally, section: TrainSubsetSection) -> NDArray[np.bool_]:
    """Choose m of a group's k completions.

    Args:
        tally: of the group.
        section: m, and how: first by index; random by seed; stratified: of every answer (abstentions are one more)
            its share of m, largest remainders first, members by seed.

    Returns:
        [k] True for min(m, k) completions.

    Example:
        >>> from quorum.types import Outcome
        >>> seven = Tally(group_id=5, answers=("7",) * 6 + ("3",) * 2, outcomes=(Outcome.ANSWERED,) * 8,
        ...               cluster=(0,) * 6 + (1,) * 2, sizes=(6, 2), representatives=("7", "3"))
        >>> chosen = choose_trained(seven, TrainSubsetSection(num_completions=4, choose="stratified"))
        >>> int(chosen[:6].sum()), int(chosen[6:].sum())
        (3, 1)
    """
    k = len(tally.cluster)
    wanted = k if section.num_completions is None else min(section.num_completions, k)
    chosen = np.zeros(k, dtype=np.bool_)
    if section.choose == "first" or wanted == k:
        chosen[:wanted] = True
        return chosen
    drawn = sorted(range(k), key=lambda index: lot(section.seed, tally.group_id, index))
    if section.choose == "random":
        chosen[drawn[:wanted]] = True
        return chosen
    strata: dict[int, list[int]] = defaultdict(list)
    for index in drawn:
        strata[tally.cluster[index]].append(index)
    for number, quota in _quotas(tally, {number: len(members) for number, members in strata.items()}, wanted).items():
        chosen[strata[number][:quota]] = True
    return chosen


def _quotas(tally: Tally, sizes: dict[int, int], wanted: int) -> dict[int, int]:
    """Seats per stratum by largest remainder; ties go to the larger stratum, then by answer, abstentions first."""
    k = sum(sizes.values())
    quotas = {number: size * wanted // k for number, size in sizes.items()}
    by_remainder = sorted(
        sizes,
        key=lambda number: (
            -(sizes[number] * wanted % k),
            -sizes[number],
            number >= 0,
            "" if number < 0 else tally.representatives[number],
        ),
    )
    for number in by_remainder[: wanted - sum(quotas.values())]:
        quotas[number] += 1
    return quotas
