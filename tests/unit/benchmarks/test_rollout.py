"""What the rollout bench makes of the steps it timed."""

import pytest

from benchmarks.rollout import Step, figures


def test_the_curve_is_the_rate_by_number_of_samplers_and_its_share_of_a_straight_line():
    steps = {
        1: [Step(4.0, 8, 400), Step(2.0, 8, 400), Step(5.0, 8, 300)],
        2: [Step(2.0, 8, 400)] * 2 + [Step(2.0, 8, 300)],
    }
    found = figures(steps)
    assert (found["step_seconds_1"], found["step_seconds_2"]) == (4.0, 2.0)
    assert (found["tokens_per_second_1"], found["tokens_per_second_2"]) == (100.0, 200.0)
    assert found["completions_per_second_2"] == 4.0
    assert (found["linear_share_1"], found["linear_share_2"]) == (1.0, 1.0)
    assert found["completion_tokens_mean"] == pytest.approx(1100 / 24)
    assert found["tokens_equal"] is True
    assert figures({1: [Step(4.0, 8, 400)], 4: [Step(4.0, 8, 401)]})["tokens_equal"] is False
    assert figures({2: [Step(4.0, 8, 400)], 4: [Step(4.0, 8, 400)]})["linear_share_4"] == 0.5
