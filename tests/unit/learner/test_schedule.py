"""The learning rate: hand-computed points of every schedule."""

import pytest

from configs.schema import LearnerSection
from learner.schedule import learning_rate


def rates(num, **section):
    made = LearnerSection(learning_rate=1.0, **section)
    return [learning_rate(made, i) for i in range(num)]


def test_without_warm_up_a_constant_rate_is_the_peak_from_the_first_update_on():
    assert rates(3) == [1.0, 1.0, 1.0]


def test_warm_up_rises_linearly_and_reaches_the_peak_with_its_last_update():
    assert rates(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_evenly_after_warm_up_and_then_stays_at_its_lowest():
    found = rates(8, schedule="linear", warmup_steps=2, decay_updates=6, min_learning_rate=0.2)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_cosine_falls_along_half_a_wave():
    """At a third, a half, two thirds of the way the cosine is 1/2, 0, -1/2."""
    found = rates(9, schedule="cosine", decay_updates=6, min_learning_rate=0.2)
    assert [found[i] for i in (0, 2, 3, 4, 6, 8)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_a_rate_of_zero_stays_zero_under_every_schedule():
    for schedule in ("constant", "linear", "cosine"):
        section = LearnerSection(learning_rate=0.0, schedule=schedule, warmup_steps=1, decay_updates=3)
        assert [learning_rate(section, i) for i in range(5)] == [0.0] * 5
