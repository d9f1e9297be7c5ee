"""What the schedule's bench makes of its steps."""

from benchmarks.schedule import CASES, Times, case_figures


def test_strict_steps_are_a_sum_and_overlapped_ones_a_maximum() -> None:
    times = Times(generate=2.0, learn=1.5, sync=0.25)
    assert (times.strict, times.overlapped) == (3.75, 2.25)


def test_figures_are_means_over_what_steps_should_take() -> None:
    figures = case_figures("case", Times(2.0, 1.5, 0.25), strict=[3.75, 7.5], ahead=[1.25, 3.25])
    assert figures["case_strict_over_sum"] == 1.5
    assert figures["case_overlap_over_max"] == 1.0


def test_either_side_is_the_slower_one_in_one_case() -> None:
    assert {times.generate > times.learn for times in CASES.values()} == {True, False}
