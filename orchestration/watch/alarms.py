"""Alarms about a step's metrics: one sentence per value above its limit, with what to look at. Pure but for `Alarms`.

Knows no reference answer: what it warns of can be seen without labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestration.watch.display import format_value
from orchestration.watch.metrics import METRICS, check_names

REARMED_AT = 0.5
"""An alarm can be raised again once its value has been at or below this part of its limit."""

ADVICE = {
    "vote/unparsed_share": "look at the completions in groups/, at voting.extractor and at data.prompt_suffix",
    "vote/truncated_share": "raise rollout.max_completion_tokens, or look in groups/ at how the completions end",
    "vote/timed_out_share": "look in groups/ at answers that timed_out, or raise voting.service.cpu_seconds",
    "vote/error_share": "look at the answers in groups/ with outcome error, and at voting.equivalence",
    "vote/abstain_share": "see which of vote/unparsed_share, truncated_share, timed_out_share and error_share is high",
    "vote/no_label_share": "look at vote/majority_ratio_mean and at the options of voting.rule",
    "vote/unanimous_share": "these groups teach nothing: the prompts are too easy, or the policy has collapsed",
    "vote/label_flip_share": "labels do not settle: look at vote/margin_mean and at learner.learning_rate",
    "vote/modal_answer_share": "one answer wins on many prompts: look at the samples in report.html for a collapse",
    "rollout/truncated_share": "raise rollout.max_completion_tokens, or look in groups/ at how the completions end",
}
"""What to look at, by metric."""


def alarms(values: Mapping[str, float | None], limits: Mapping[str, float]) -> list[str]:
    """One sentence per value above its limit.

    Args:
        values: metrics of a step by registered name.
        limits: by registered name; a value that equals its limit raises no alarm, nor one that was not measured.

    Returns:
        Sentences in the order of `limits`: what, its value, its limit, what to look at.

    Raises:
        ValueError: a limit's name is not registered, or a limit is not a number.
    """
    return [_sentence(name, value, limits[name]) for name, value in _above(values, limits).items()]


class Alarms:
    """`alarms`, step after step: says the same thing only when its limit is crossed, not at every step above it.

    Example:
        alarms = Alarms({"vote/truncated_share": 0.3})
        for sentence in alarms.check(values):
            display.event(sentence)
    """

    def __init__(self, limits: Mapping[str, float], raised: Sequence[str] = ()) -> None:
        """Begin, or go on.

        Args:
            limits: by registered name.
            raised: what `raised` was where this goes on from.

        Raises:
            ValueError: of another name, or a limit that is not a number.
        """
        _check(limits)
        self._limits = dict(limits)
        self._raised = set(raised) & limits.keys()

    @property
    def raised(self) -> tuple[str, ...]:
        """Metrics whose alarm has been raised and not yet rearmed, sorted."""
        return tuple(sorted(self._raised))

    def check(self, values: Mapping[str, float | None]) -> list[str]:
        """Sentences about what crossed its limit in this step.

        A value that stays above, or goes below its limit and comes back, is not said again, unless it has been at or
        below half its limit in between: one that swings about its limit is one alarm.
        """
        above = _above(values, self._limits)
        new = [_sentence(name, value, self._limits[name]) for name, value in above.items() if name not in self._raised]
        self._raised = {name for name in self._raised | above.keys() if not self._is_calm(name, values.get(name))}
        return new

    def _is_calm(self, name: str, value: float | None) -> bool:
        return value is not None and value <= REARMED_AT * self._limits[name]


def _check(limits: Mapping[str, float]) -> None:
    check_names(limits)
    for name, limit in limits.items():
        if math.isnan(limit):
            raise ValueError(f"limit of {name} is not a number")


def _above(values: Mapping[str, float | None], limits: Mapping[str, float]) -> dict[str, float]:
    _check(limits)
    measured = ((name, values.get(name)) for name in limits)
    return {name: value for name, value in measured if value is not None and value > limits[name]}


def _sentence(name: str, value: float, limit: float) -> str:
    shown, bound = format_value(name, value), format_value(name, limit)
    advice = ADVICE.get(name, "look at its curve in report.html")
    return f"{name} is {shown}, above its limit of {bound} ({_what(name)}): {advice}."


def _what(name: str) -> str:
    text = METRICS[name].help.partition(";")[0]
    return text[0].lower() + text[1:]
