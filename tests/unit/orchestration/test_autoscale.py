"""The autoscaling policy: when it adds, when it removes, and that it comes to rest."""

from __future__ import annotations

import random

import pytest

from configs.schema import AutoscaleSection
from orchestration.autoscale import Autoscaler, Autoscaling, StepWait, wait_with


def section(**changes: object) -> AutoscaleSection:
    return AutoscaleSection.model_validate({"min_samplers": 1, "max_samplers": 16, "interval_steps": 2} | changes)


def decide(wait: float, idle: float, num_samplers: int, steps: int = 2, **changes: object) -> int:
    return Autoscaler(section(**changes)).decide([StepWait(wait, idle)] * steps, num_samplers)


def test_a_learner_that_waits_too_long_gets_another_sampler() -> None:
    assert decide(0.3, 0.0, 4) == 5


def test_samplers_that_idle_are_removed_when_the_others_can_do_the_work() -> None:
    assert decide(0.0, 0.5, 4) == 3


def test_idle_samplers_that_are_still_needed_stay() -> None:
    """Two samplers that idle a quarter of the time: one alone would make the learner wait a third of every step."""
    assert wait_with(1, 2, 0.25) == pytest.approx(1 / 3)
    assert decide(0.0, 0.25, 2) == 2


def test_between_the_thresholds_nothing_changes() -> None:
    assert decide(0.07, 0.5, 4) == 4, "the learner waits more than half the target"
    assert decide(0.02, 0.09, 4) == 4, "the samplers idle less than the target"


def test_the_number_changes_only_after_enough_steps() -> None:
    assert decide(0.9, 0.0, 4, steps=1) == 4
    assert decide(0.9, 0.0, 4, steps=2) == 5


def test_only_the_newest_steps_count() -> None:
    waits = [StepWait(0.9, 0.0)] * 5 + [StepWait(0.0, 0.0)] * 2
    assert Autoscaler(section()).decide(waits, 4) == 4


def test_the_limits_hold_and_bring_a_number_back_that_is_outside() -> None:
    assert decide(0.9, 0.0, 16) == 16
    assert decide(0.0, 0.99, 1) == 1
    assert decide(0.9, 0.0, 15, step_samplers=4) == 16
    assert decide(0.0, 0.99, 3, step_samplers=4, min_samplers=2) == 2
    assert decide(0.0, 0.0, 20, steps=0) == 16
    assert decide(0.0, 0.0, 1, steps=0, min_samplers=3) == 3


class Pipeline:
    """A step takes max(learn, work / n) seconds, each part with some noise; whoever is faster waits."""

    def __init__(self, learn: float, work: float, noise: float = 0.0) -> None:
        self.learn, self.work, self.noise, self.draws = learn, work, noise, random.Random(0)

    def step(self, num_samplers: int) -> StepWait:
        learn = self.learn * self.draws.uniform(1 - self.noise, 1 + self.noise)
        rollout = self.work / num_samplers * self.draws.uniform(1 - self.noise, 1 + self.noise)
        seconds = max(learn, rollout)
        return StepWait((seconds - learn) / seconds, (seconds - rollout) / seconds)


def numbers(pipeline: Pipeline, start: int, num_steps: int, **changes: object) -> list[int]:
    """Samplers of each step of a closed loop."""
    scaling, num_samplers, found = Autoscaling(Autoscaler(section(**changes))), start, []
    for _ in range(num_steps):
        found.append(num_samplers)
        wait = pipeline.step(num_samplers)
        num_samplers = scaling.observe(wait, num_wanted=num_samplers, num_ready=num_samplers)
    return found


@pytest.mark.parametrize("start", [1, 3, 16])
@pytest.mark.parametrize("work", [0.4, 1.0, 1.5, 2.3, 7.9, 30.0])
@pytest.mark.parametrize("step_samplers", [1, 3])
def test_a_closed_loop_comes_to_rest_where_the_learner_hardly_waits(
    work: float, start: int, step_samplers: int
) -> None:
    pipeline = Pipeline(learn=1.0, work=work)
    found = numbers(pipeline, start, 80, step_samplers=step_samplers)
    rest = found[-1]
    assert set(found[-30:]) == {rest}, found
    assert pipeline.step(rest).learner_wait_share <= 0.1 or rest == 16
    fewer = max(1, rest - step_samplers)
    assert fewer == rest or pipeline.step(fewer).learner_wait_share >= 0.05, "no sampler too many"
    rises = sum(b > a for a, b in zip(found, found[1:], strict=False))
    falls = sum(b < a for a, b in zip(found, found[1:], strict=False))
    assert not (rises and falls), f"it went one way only: {found}"


@pytest.mark.parametrize(("work", "most"), [(1.5, 0), (2.6, 0), (9.4, 2), (5.5, 6)])
def test_noise_does_not_make_it_oscillate(work: float, most: int) -> None:
    """With 5 samplers for 5.5 the learner waits 9% of a step, next to the target: the number may change, seldom."""
    found = numbers(Pipeline(learn=1.0, work=work, noise=0.05), 1, 300, interval_steps=4)
    assert sum(a != b for a, b in zip(found[60:], found[61:], strict=False)) <= most, found
    assert max(found[60:]) - min(found[60:]) <= 1


def test_it_follows_a_load_that_grows_and_shrinks() -> None:
    pipeline = Pipeline(learn=1.0, work=2.0)
    scaling, num_samplers, found = Autoscaling(Autoscaler(section())), 2, []
    for step in range(120):
        pipeline.work = 8.0 if 20 <= step < 70 else 2.0
        num_samplers = scaling.observe(pipeline.step(num_samplers), num_wanted=num_samplers, num_ready=num_samplers)
        found.append(num_samplers)
    assert found[19] == 2 and found[69] == 8 and found[-1] == 2, found


def test_steps_with_samplers_missing_say_nothing() -> None:
    scaling = Autoscaling(Autoscaler(section()))
    for _ in range(10):
        assert scaling.observe(StepWait(0.9, 0.0), num_wanted=4, num_ready=3) == 4
    assert scaling.observe(StepWait(0.9, 0.0), num_wanted=4, num_ready=4) == 4
    assert scaling.observe(StepWait(0.9, 0.0), num_wanted=4, num_ready=4) == 5


def test_an_operators_number_starts_a_new_average() -> None:
    scaling = Autoscaling(Autoscaler(section()))
    scaling.observe(StepWait(0.9, 0.0), num_wanted=4, num_ready=4)
    assert scaling.observe(StepWait(0.9, 0.0), num_wanted=8, num_ready=8) == 8
    assert scaling.observe(StepWait(0.9, 0.0), num_wanted=8, num_ready=8) == 9
