"""What the startup bench makes of the starts it timed."""

from dataclasses import replace

import pytest

from benchmarks.startup import Start, figures, rows, table


def start(scale: float) -> Start:
    return Start(
        seconds=20 * scale,
        ready_seconds=15 * scale,
        phases={
            "imports": 2 * scale,
            "ray": 2 * scale,
            "actors": 10 * scale,
            "first weights": scale,
            "rest": 5 * scale,
        },
        parts={"samplers": 10 * scale, "learner": 7 * scale},
        steps={"learner": {"importing": 3 * scale, "reference": scale}},
    )


STARTS = [start(1.0), start(3.0), start(2.0)]


def test_readiness_is_compared_with_ray_and_the_slowest_part_of_the_same_start():
    found = figures(STARTS)
    assert found["startup_over_slowest"] == pytest.approx(15 / 12)
    assert found["startup_over_slowest"].values == pytest.approx((1.25, 1.25, 1.25))
    assert (found["ready_seconds"], found["to_first_update_seconds"]) == (30.0, 40.0)
    assert found["learner_reference_seconds"] == 2.0 and found["first_weights_seconds"] == 2.0


def test_phases_sum_to_the_whole_and_parts_stand_below_the_actors():
    found = rows(STARTS)
    assert sum(seconds for _, depth, seconds in found if depth == 0) == pytest.approx(40.0)
    names = [name for name, _, _ in found]
    at = names.index("actors")
    assert names[at + 1 : at + 5] == ["learner", "learner/importing", "learner/reference", "samplers"]


def test_what_only_some_repeats_have_counts_as_no_seconds_in_the_others_and_keeps_its_place():
    more = replace(
        STARTS[1],
        phases={"imports": 1.0, "nodes": 4.0, **STARTS[1].phases},
        parts={**STARTS[1].parts, "voting": 3.0},
        steps={"samplers": {"engine": 2.0}},
    )
    found = rows([STARTS[0], more])
    seconds = {name: value for name, _, value in found}
    assert [name for name, depth, _ in found if depth == 0][:3] == ["imports", "nodes", "ray"]
    assert (seconds["nodes"].values, seconds["voting"].values) == ((0.0, 4.0), (0.0, 3.0))
    assert seconds["learner/reference"].values == (1.0, 0.0) and seconds["samplers/engine"].values == (0.0, 2.0)
    assert figures([more, STARTS[0]])["nodes_seconds"] == 2.0


def test_the_table_says_when_everything_is_ready():
    lines = table(STARTS)
    assert [line for line in lines if "READY" in line][0].split()[:4] == ["2.00", "5%", "first", "weights"]
    assert lines[-1].split() == ["40.00", "100%", "to", "the", "first", "update"]
