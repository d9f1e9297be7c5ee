"""Majority for the sign of the reward, novelty for its size (EVOL-RL, arXiv 2509.15194), without an embedding model.

Completions are compared as counts of n-grams. All sums are of whole numbers or exact, so that a reward is the same on
any machine and in any order of completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.schema import Share
from quorum.registry import Options
from quorum.types import Completion, Float32Array, Resolution, RolloutGroup, Tally
from voting.election import Ballots

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd: n-grams become 64-bit numbers by a polynomial in it."""
_COLUMNS = 16_384
"""Different n-grams looked at together: bounds memory to 8 * k * _COLUMNS bytes."""
_EQUAL = 1e-12
"""Novelties closer than that are the same."""


class NoveltyOptions(Options):
    """Options of the rule that pays novelty."""

    unit: Literal["characters", "tokens"] = "characters"
    """What an n-gram is made of. tokens needs groups that a run stored."""
    n: Annotated[int, Field(ge=1, le=32)] = 4
    """Units per n-gram."""
    mean_share: Share = 0.5
    """Part of the mean similarity to one's own side in a completion's; the rest is the greatest to anybody."""


def pay_sign(tally: Tally, decided: Resolution, ballots: Ballots, options: NoveltyOptions) -> Float32Array:
    """[k] 1 for members of the winning cluster, -1 for all others."""
    return np.asarray([1.0 if number == decided.label_cluster else -1.0 for number in tally.cluster], dtype=np.float32)


def refine_by_novelty(
    group: RolloutGroup, tally: Tally, decided: Resolution, rewards: Float32Array, options: NoveltyOptions
) -> Float32Array:
    """[k] in [0.5, 1] for the label, in [-1, -0.5] for other answers, each more with more novelty; -1 for no answer.

    Novelty is 1 - (m * mean similarity to the rest of one's own side + (1 - m) * greatest similarity to any other that
    answered), brought to [0, 1] within each side; 0.5 where a side is all alike or of one.
    """
    answered = [index for index, number in enumerate(tally.cluster) if number >= 0]
    alike = similarities([_units(group.completions[index], options.unit) for index in answered], options.n)
    made = np.full(len(tally.cluster), -1.0)
    for is_label in (True, False):
        side = [
            place for place, index in enumerate(answered) if (tally.cluster[index] == decided.label_cluster) is is_label
        ]
        novelties = [_novelty(alike, place, side, options.mean_share) for place in side]
        for place, novelty in zip(side, _spread(novelties), strict=True):
            made[answered[place]] = (0.5 if is_label else -1.0) + 0.5 * novelty
    return made.astype(np.float32)


def similarities(sequences: Sequence[NDArray[np.uint64]], n: int) -> NDArray[np.float64]:
    """[m, m] cosine of the n-gram counts of each two of m sequences; 0 with an empty one.

    A sequence shorter than n is one n-gram of its own length.

    Example:
        >>> words = [np.array(word, dtype=np.uint64) for word in ([1, 2, 3], [1, 2, 3], [1, 2, 9], [7])]
        >>> similarities(words, 2).round(3).tolist()[0]
        [1.0, 1.0, 0.5, 0.0]
    """
    parts = [np.unique(_grams(sequence, n), return_counts=True) for sequence in sequences]
    size = len(parts)
    dots = np.zeros((size, size))
    if not size:
        return dots
    rows = np.repeat(np.arange(size), [len(grams) for grams, _ in parts])
    counts = np.concatenate([counts for _, counts in parts]).astype(np.float64)
    grams, columns = np.unique(np.concatenate([grams for grams, _ in parts]), return_inverse=True)
    order = np.argsort(columns, kind="stable")
    rows, columns, counts = rows[order], columns[order], counts[order]
    for start in range(0, len(grams), _COLUMNS):
        here = slice(*np.searchsorted(columns, [start, start + _COLUMNS]))
        table = np.zeros((size, min(_COLUMNS, len(grams) - start)))
        table[rows[here], columns[here] - start] = counts[here]
        dots += table @ table.T  # whole numbers far below 2**53: exact, whatever the order
    lengths = np.sqrt(np.diag(dots))
    lengths[lengths == 0] = 1.0
    return np.minimum(dots / np.outer(lengths, lengths), 1.0)


def _grams(sequence: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    n = min(n, len(sequence))
    made = np.zeros(len(sequence) - n + 1 if n else 0, dtype=np.uint64)
    for place in range(n):
        made = made * _MULTIPLIER + sequence[place : place + len(made)] + np.uint64(1)
    return made


def _units(completion: Completion, unit: str) -> NDArray[np.uint64]:
    if unit == "tokens":
        return completion.token_ids.astype(np.uint64)
    return np.frombuffer(completion.text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _novelty(alike: NDArray[np.float64], place: int, side: Sequence[int], mean_share: float) -> float:
    own = [alike[place, other] for other in side if other != place]
    anybody = [value for other, value in enumerate(alike[place]) if other != place]
    mean = math.fsum(own) / len(own) if own else 0.0
    return float(1.0 - (mean_share * mean + (1.0 - mean_share) * max(anybody, default=0.0)))


def _spread(novelties: Sequence[float]) -> list[float]:
    """Brought to [0, 1]; 0.5 where there is no difference."""
    low, high = min(novelties, default=0.0), max(novelties, default=0.0)
    if high - low <= _EQUAL:
        return [0.5] * len(novelties)
    return [(value - low) / (high - low) for value in novelties]
