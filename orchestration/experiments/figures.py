"""Numbers that an experiment decides: pure functions of its runs' curves, named in the experiment's file.

An entry's target is called with ({arm: runs}, options) and returns one number, or None where it is not defined: a run
is missing, or the arm that is the measure gained nothing. Accuracies are shares: 0.1 is ten points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from configs.schema import Plugin
from orchestration.experiments.curves import RunCurves
from quorum.registry import Entry, Options, Registry

Runs = Mapping[str, Sequence[RunCurves]]
ACCURACY = "eval/average_accuracy"


class ArmOptions(Options):
    """Of one arm."""

    arm: str
    metric: str = ACCURACY


class ShareOptions(ArmOptions):
    """Of two arms."""

    of: str


class PickOptions(ArmOptions):
    """Of a choice among evaluations."""

    by: str = "eval/agreement_mean"
    """Metric whose highest value chooses; one that needs no reference answer."""


def gains(runs: Sequence[RunCurves], metric: str = ACCURACY) -> list[float]:
    """Last minus first value of each run; empty unless all runs have both."""
    ends = [run.first_and_last(metric) for run in runs]
    return [] if None in ends else [last - first for first, last in ends]


def gain(runs: Runs, options: ArmOptions) -> float | None:
    """What an arm gained from before the first to after the last step, mean over seeds."""
    return _mean(gains(runs.get(options.arm, ()), options.metric))


def share_of(runs: Runs, options: ShareOptions) -> float | None:
    """An arm's mean gain over another's; None unless the other gained something."""
    one, other = (_mean(gains(runs.get(arm, ()), options.metric)) for arm in (options.arm, options.of))
    return None if one is None or other is None or other <= 0 else one / other


def final(runs: Runs, options: ArmOptions) -> float | None:
    """An arm's last value, mean over seeds."""
    return _mean([ends[1] for run in runs.get(options.arm, ()) if (ends := run.first_and_last(options.metric))])


def final_over_peak(runs: Runs, options: ArmOptions) -> float | None:
    """What an arm keeps of its best value in the end, mean over seeds: 1 without a fall."""
    kept = []
    for run in runs.get(options.arm, ()):
        values = run.series.get(options.metric, {})
        if not values or max(values.values()) <= 0:
            return None
        kept.append(values[max(values)] / max(values.values()))
    return _mean(kept)


def pick_gap(runs: Runs, options: PickOptions) -> float | None:
    """Best value of an arm minus that of the evaluation which another metric chooses, mean over seeds. 0: it chose the
    best; of equal choices the first counts."""
    gaps = []
    for run in runs.get(options.arm, ()):
        values, chooser = run.series.get(options.metric, {}), run.series.get(options.by, {})
        both = sorted(values.keys() & chooser.keys())
        if not both:
            return None
        chosen = max(both, key=lambda step: (chooser[step], -step))
        gaps.append(max(values[step] for step in both) - values[chosen])
    return _mean(gaps)


FIGURES: Registry = {
    "gain": Entry(gain, ArmOptions),
    "share_of": Entry(share_of, ShareOptions),
    "final": Entry(final, ArmOptions),
    "final_over_peak": Entry(final_over_peak, ArmOptions),
    "pick_gap": Entry(pick_gap, PickOptions),
}
"""Figure functions by name."""


def decide(figures: Mapping[str, Plugin], runs: Runs) -> dict[str, float | None]:
    """Every figure of an experiment, by its name."""
    decided = {}
    for name, plugin in figures.items():
        entry = FIGURES[plugin.name]
        decided[name] = entry.target(runs, entry.options(**plugin.options))
    return decided


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
