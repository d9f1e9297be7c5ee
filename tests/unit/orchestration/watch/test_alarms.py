"""Alarms: what is said, when, and when not again."""

from __future__ import annotations

import math
import re

import pytest

from configs.schema import RunConfig
from orchestration.watch.alarms import ADVICE, Alarms, alarms
from orchestration.watch.metrics import METRICS

LIMITS = {"vote/truncated_share": 0.3, "vote/unparsed_share": 0.2}


def test_an_alarm_says_what_how_much_its_limit_and_what_to_look_at() -> None:
    (sentence,) = alarms({"vote/truncated_share": 0.421, "vote/unparsed_share": 0.1}, LIMITS)
    assert "vote/truncated_share is 42.1%, above its limit of 30.0%" in sentence
    assert "rollout.max_completion_tokens" in sentence and sentence.endswith(".")


def test_alarms_come_in_the_order_of_their_limits() -> None:
    found = alarms({"vote/unparsed_share": 1.0, "vote/truncated_share": 1.0}, LIMITS)
    assert [sentence.split()[0] for sentence in found] == list(LIMITS)


def test_at_the_limit_or_not_measured_is_no_alarm() -> None:
    assert alarms({"vote/truncated_share": 0.3}, LIMITS) == []
    assert alarms({"vote/truncated_share": None, "vote/unparsed_share": math.nan}, LIMITS) == []
    assert alarms({}, LIMITS) == [] and alarms({"vote/truncated_share": 1.0}, {}) == []


@pytest.mark.parametrize("limits", [{"vote/truncated": 0.1}, {"vote/truncated_share": math.nan}])
def test_a_limit_that_cannot_be_meant_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="vote/truncated"):
        alarms({}, limits)
    with pytest.raises(ValueError, match="vote/truncated"):
        Alarms(limits)


def raised_at(values: list[float | None]) -> list[int]:
    watch = Alarms({"vote/error_share": 0.2})
    return [step for step, value in enumerate(values) if watch.check({"vote/error_share": value})]


def test_a_value_that_stays_above_its_limit_is_said_once() -> None:
    assert raised_at([0.1, 0.3, 0.4, 0.3]) == [1]


def test_a_value_that_swings_about_its_limit_is_said_once() -> None:
    assert raised_at([0.21, 0.19, 0.21, 0.11, 0.3]) == [0]


def test_a_value_that_was_calm_in_between_is_said_again() -> None:
    assert raised_at([0.3, 0.1, 0.3, 0.0, 0.15, 0.25]) == [0, 2, 5]


def test_a_step_without_the_value_calms_nothing() -> None:
    assert raised_at([0.3, None, 0.3]) == [0]


def test_a_limit_of_zero_can_be_crossed_again() -> None:
    watch = Alarms({"vote/error_share": 0.0})
    assert [len(watch.check({"vote/error_share": value})) for value in (0.0, 0.1, 0.1, 0.0, 0.1)] == [0, 1, 0, 0, 1]


def test_each_kind_is_said_on_its_own() -> None:
    watch = Alarms(LIMITS)
    assert len(watch.check({"vote/truncated_share": 0.5})) == 1
    (sentence,) = watch.check({"vote/truncated_share": 0.5, "vote/unparsed_share": 0.5})
    assert sentence.startswith("vote/unparsed_share")


def test_any_metric_may_have_a_limit() -> None:
    (sentence,) = alarms({"learn/grad_norm": 12.0}, {"learn/grad_norm": 10.0})
    assert sentence == (
        "learn/grad_norm is 12, above its limit of 10 (norm of the gradient before clipping): "
        "look at its curve in report.html."
    )


def test_advice_names_metrics_and_settings_that_exist() -> None:
    assert ADVICE.keys() <= METRICS.keys()
    text = " ".join(ADVICE.values())
    assert set(re.findall(r"[a-z]+/[a-z_]+", text)) <= METRICS.keys()
    for section, field in re.findall(r"\b(voting|rollout|data|learner)\.(\w+)", text):
        assert field in RunConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_an_alarm_that_was_raised_before_an_interruption_is_not_raised_again() -> None:
    name = "vote/truncated_share"
    alarms = Alarms({name: 0.3})
    assert len(alarms.check({name: 0.5})) == 1
    going_on = Alarms({name: 0.3}, alarms.raised)
    assert going_on.check({name: 0.5}) == []
    assert going_on.check({name: 0.1}) == [] and going_on.raised == ()
    assert len(going_on.check({name: 0.5})) == 1
