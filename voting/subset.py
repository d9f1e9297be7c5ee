"""Which of a group's completions are trained on, when more vote than train. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.schema import TrainSubsetSection
from quorum.types import Outcome, Tally
from voting.election import lot


def choose_trained(tally: Tally, section: TrainSubsetSection) -> NDArray[np.bool_]:
    """Choose m of a group's k completions.

    Args:
        tally: of the group.
        section: m, and how: first by index; random by seed; stratified: of every answer (abstentions are one more)
            its share of m, largest remainders first, members by seed.

    Returns:
        [k] True for min(m, k) completions, less those of outlying entropy where `entropy_iqr` says so; never for one
        that was stopped.

    Example:
        >>> from quorum.types import Outcome
        >>> seven = Tally(group_id=5, answers=("7",) * 6 + ("3",) * 2, outcomes=(Outcome.ANSWERED,) * 8,
        ...               cluster=(0,) * 6 + (1,) * 2, sizes=(6, 2), representatives=("7", "3"))
        >>> chosen = choose_trained(seven, TrainSubsetSection(num_completions=4, choose="stratified"))
        >>> int(chosen[:6].sum()), int(chosen[6:].sum())
        (3, 1)
    """
    chosen = _choose(tally, section)
    return chosen if section.entropy_iqr is None else chosen & ~too_certain(tally, section.entropy_iqr)


def too_certain(tally: Tally, reach: float) -> NDArray[np.bool_]:
    """Completions whose mean entropy is below the group's Q1 - reach * (Q3 - Q1) (M-GRPO, arXiv 2512.13070).

    Quartiles are interpolated linearly, over the completions that were not stopped. A group whose entropies are not
    known has none.

    Example:
        >>> from quorum.types import Outcome
        >>> five = Tally(group_id=0, answers=("7",) * 5, outcomes=(Outcome.ANSWERED,) * 5, cluster=(0,) * 5, sizes=(5,),
        ...              representatives=("7",), entropies=(0.1, 1.0, 1.0, 1.2, 1.2))
        >>> too_certain(five, 0.75).tolist()
        [True, False, False, False, False]
    """
    if not tally.entropies:
        return np.zeros(len(tally.cluster), dtype=np.bool_)
    entropies = np.asarray(tally.entropies, dtype=np.float64)
    whole = np.asarray([outcome is not Outcome.STOPPED for outcome in tally.outcomes], dtype=np.bool_)
    if not whole.any():
        return np.zeros(len(tally.cluster), dtype=np.bool_)
    low, high = np.percentile(entropies[whole], [25, 75])
    return np.asarray(whole & (entropies < low - reach * (high - low)), dtype=np.bool_)


def _choose(tally: Tally, section: TrainSubsetSection) -> NDArray[np.bool_]:
    chosen = np.zeros(len(tally.cluster), dtype=np.bool_)
    whole = [index for index, outcome in enumerate(tally.outcomes) if outcome is not Outcome.STOPPED]
    drawn = _in_order(tally.group_id, whole, section)
    wanted = len(whole) if section.num_completions is None else min(section.num_completions, len(whole))
    if section.choose != "stratified" or wanted == len(whole):
        chosen[drawn[:wanted]] = True
        return chosen
    strata: dict[int, list[int]] = defaultdict(list)
    for index in drawn:
        strata[tally.cluster[index]].append(index)
    for number, quota in _quotas(tally, {number: len(members) for number, members in strata.items()}, wanted).items():
        chosen[strata[number][:quota]] = True
    return chosen


def vote_only_indices(group_id: int, k: int, section: TrainSubsetSection) -> tuple[int, ...]:
    """Completions that vote and are not trained on, known before they are drawn: those that `choose_trained` leaves.

    Args:
        group_id: whose completions.
        k: how many it has.
        section: m, and how they are chosen; not stratified, which asks what was answered.

    Returns:
        Indices in order; empty where all are trained on.

    Raises:
        ValueError: the choice depends on the answers.

    Example:
        >>> vote_only_indices(5, 4, TrainSubsetSection(num_completions=2))
        (2, 3)
    """
    if section.choose == "stratified":
        raise ValueError("a stratified choice depends on the answers: which completions only vote is not known before")
    wanted = k if section.num_completions is None else section.num_completions
    return tuple(sorted(_in_order(group_id, range(k), section)[wanted:]))


def _in_order(group_id: int, indices: Sequence[int], section: TrainSubsetSection) -> Sequence[int]:
    """Who is chosen first: the first, or whoever a lottery says."""
    if section.choose == "first":
        return indices
    return sorted(indices, key=lambda index: lot(section.seed, group_id, index))


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
