"""The learning rate of each update: a linear warm-up, then constant, or falling linearly or along a cosine."""

from __future__ import annotations

import math

from configs.schema import LearnerSection


def learning_rate(section: LearnerSection, num_updates: int) -> float:
    """Learning rate of the next update.

    With W = warmup_steps and D = decay_updates, update i (from 0) has peak * (i + 1) / W while i < W. Linear and
    cosine then fall over the share x = (i - W) / (D - W) of the way, from the peak at i = W to min_learning_rate
    at i = D, and stay there.

    Args:
        section: the learner's configuration.
        num_updates: optimizer calls made so far.

    Returns:
        The rate. One below min_learning_rate is possible during warm-up, and where the peak is below it.
    """
    peak, lowest = section.learning_rate, section.min_learning_rate
    if num_updates < section.warmup_steps:
        return peak * min(1.0, (num_updates + 1) / section.warmup_steps)
    if section.schedule == "constant":
        return peak
    assert section.decay_updates is not None, "the configuration refuses this schedule without decay_updates"
    share = min(1.0, (num_updates - section.warmup_steps) / (section.decay_updates - section.warmup_steps))
    if section.schedule == "linear":
        return peak + (lowest - peak) * share
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * share)) / 2
