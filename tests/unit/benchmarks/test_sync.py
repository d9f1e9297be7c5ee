"""The pure parts of `quorum bench sync`."""

import pytest

from benchmarks.sync import BareRound, EngineRound, bare_figures, engine_figures, stall_figures, stall_line
from benchmarks.sync_engine import stall_seconds


def test_the_share_of_the_broadcast_is_the_median_of_paired_ratios():
    rounds = [BareRound(1.0, 0.5, 0.1), BareRound(1.0, 1.0, 0.2), BareRound(4.0, 3.0, 0.4)]
    assert bare_figures("x", 2_000_000_000, rounds) == {
        "wire_share_x": 0.75,
        "wire_gbps_x": 2.0,
        "broadcast_gbps_x": 2.0,
        "copy_gbps_x": 10.0,
    }


def test_wire_and_load_of_engines_are_told_apart():
    rounds = [EngineRound(0.1, 0.3, 0.5), EngineRound(0.2, 0.2, 0.6), EngineRound(0.3, 0.1, 0.7)]
    assert engine_figures("x", 200_000_000, rounds) == {
        "engine_wire_gbps_x": 1.0,
        "engine_wire_seconds_x": 0.2,
        "engine_load_seconds_x": 0.2,
        "engine_update_seconds_x": 0.6,
    }


def test_what_a_stall_has_over_wire_and_load_is_counted_round_by_round():
    rounds = [EngineRound(0.1, 0.3, 0.5, stall=0.43), EngineRound(0.2, 0.4, 0.7, stall=0.62)]
    found = stall_figures("x", "keep", rounds)
    assert found == pytest.approx({"stall_seconds_x": 0.525, "stall_excess_seconds_x": 0.025})
    assert set(stall_figures("x", "recompute", rounds)) == {
        "stall_recompute_seconds_x",
        "stall_recompute_excess_seconds_x",
    }
    assert stall_line(200, "keep", rounds).endswith("stall 0.525 s, +0.025 s to wire and load")


def test_a_stall_is_the_longest_gap_at_an_update_less_the_usual_one():
    """Tokens come every 0.1 s but for the first, which took 5 s, and 1.5 s around an update from 5.25 to 6.5."""
    marks = [0.0, 5.0, 5.1, 5.2, 6.7, 6.8, 6.9]
    assert stall_seconds(marks, began=5.25, ended=6.5) == pytest.approx(1.4)
    assert stall_seconds(marks, began=5.15, ended=6.75) == pytest.approx(1.4)
