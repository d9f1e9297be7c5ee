"""Rules that reproduce published implementations, their traps included, so that others' figures can be reproduced.

Unlike every other rule they pay by a second comparison, and with ties going to the first answer they depend on the
order of completions. Nothing else in the package does either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from configs.schema import ElectionSection
from quorum.registry import Options
from quorum.types import Float32Array, Resolution, RolloutGroup, Tally
from voting.asking import Steps
from voting.election import Ballots, elect
from voting.jobs import Ask, JobResult, JobStatus


class CompatOptions(Options):
    """Options of the official SRT code's rule (github tajwarfahim/srt, reward_manager/self_learning.py)."""

    soft: bool = False
    """Its `soft_reward`: every distinct answer counts by its share, and the threshold does not apply."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Rewards that a second comparison paid."""

    rewards: Float32Array
    """[k]"""
    num_late: int
    """Completions whose comparison failed or did not end in time; paid 0, as in the originals, and counted."""


def elect_official(tally: Tally, ballots: Ballots, section: ElectionSection, options: CompatOptions) -> Resolution:
    """The official election: with soft rewards every group that was parsed at all is labelled, ties and all."""
    everybody = {"min_agreement": 0.0, "min_margin": 0.0, "tie": "first"}
    return elect(tally, ballots, section.model_copy(update=everybody) if options.soft else section)


def judge_official(group: RolloutGroup, tally: Tally, resolution: Resolution, options: CompatOptions) -> Steps[Judged]:
    r"""Pay as the official SRT code does: math-verify finds the label anywhere in the whole response.

    The vote was by equal strings, so answers written differently vote apart and are paid together, and a response
    without a box can earn its reward. With soft rewards each distinct answer's share is paid for being found.
    """
    k = len(group.completions)
    if options.soft:
        counts = Counter(answer for answer in tally.answers if answer is not None)
        labels = {answer: size / sum(counts.values()) for answer, size in counts.items()}
    else:
        labels = {} if resolution.pseudo_label is None else {resolution.pseudo_label: 1.0}
    subjects = tuple((label, completion.text) for label in labels for completion in group.completions)
    results: list[JobResult] = []
    if subjects:
        results = yield Ask("voting.answers.response_check:found_in_response", subjects, is_remembered=False)
    rewards = np.zeros(k, dtype=np.float64)
    late = np.zeros(k, dtype=np.bool_)
    for position, weight in enumerate(labels.values()):
        for index, result in enumerate(results[position * k : (position + 1) * k]):
            rewards[index] += weight * (result.value is True)
            late[index] |= result.is_late or result.status is JobStatus.ERROR
    return Judged(rewards.astype(np.float32), int(late.sum()))


def judge_ttrl(group: RolloutGroup, tally: Tally, resolution: Resolution, options: Options) -> Steps[Judged]:
    """Pay as TTRL does (arXiv 2504.16084): the answer that was read, compared with the label mathematically.

    Equal strings are equal without a question; the comparison is math-verify's, where TTRL vendors its own.
    """
    label = resolution.pseudo_label
    others = tuple(dict.fromkeys(answer for answer in tally.answers if answer is not None and answer != label))
    results: list[JobResult] = []
    if label is not None and others:
        pairs = tuple((label, other) for other in others)
        results = yield Ask("voting.answers.mathematics:equal", pairs, (True, 6, 15))
    verdicts = dict(zip(others, results, strict=True)) if results else {}
    rewards = [
        float(label is not None and (answer == label or (answer in verdicts and verdicts[answer].value is True)))
        for answer in tally.answers
    ]
    late = sum(answer in verdicts and verdicts[answer].status is not JobStatus.DONE for answer in tally.answers)
    return Judged(np.asarray(rewards, dtype=np.float32), late)
