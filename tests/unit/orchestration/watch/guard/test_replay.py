"""Replays: curves read as they are, leads counted against true accuracy, and what is seen of the paper's figures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from orchestration.watch.guard.replay import Rows, lost_at, pick, read_source, replay
from quorum.errors import ConfigError, DataError

CURVES = Path(__file__).parents[5] / "data" / "paper_curves"


def test_accuracy_is_lost_where_it_stays_below_nine_tenths_of_its_peak() -> None:
    assert lost_at([(0, 0.5), (10, 1.0), (20, 0.8), (30, 0.7)]) == 15.0
    assert lost_at([(0, 0.5), (10, 1.0), (20, 0.8), (30, 1.0)]) is None  # one low evaluation
    assert lost_at([(0, 0.5), (10, 1.0), (20, 0.8)]) == 15.0  # the last one is believed
    assert lost_at([]) is None and lost_at([(0, 0.3)]) is None


def test_the_paper_s_spike_is_seen_after_the_accuracy_is_lost() -> None:
    found = replay(read_source(CURVES / "fig3_srt.csv", {}))
    assert found.peak_step == 250 and found.lost_step == pytest.approx(331, abs=1)
    assert found.alarm_step is not None and 475 < found.alarm_step < 600
    lead = found.lead(found.alarm_step)
    assert lead is not None and lead < -100, "reward, KL and entropy alone flag the end, not the decline"
    assert found.first_trips["entropy_scissors"] < found.alarm_step, "entropy against agreement moves first"


@pytest.mark.parametrize("name", ["fig3_gold", "fig5_srt"])
def test_the_paper_s_runs_that_do_not_collapse_raise_no_alarm(name: str) -> None:
    found = replay(read_source(CURVES / f"{name}.csv", {}))
    assert found.alarm_step is None and found.is_false_alarm is False


def slow_decline(num_steps: int, is_collapsing: bool, seed: int = 1) -> Rows:
    """Agreement rises all the time; from the middle on a collapsing policy leaves its anchor, with noise."""
    noise = random.Random(seed)
    rows: Rows = []
    for step in range(0, num_steps, 10):
        at = step / num_steps
        anchor = 0.5 + 0.2 * min(at, 0.5) - (0.3 * max(0.0, at - 0.5) if is_collapsing else 0.0)
        row = {"eval/anchor_vote_share": anchor + noise.gauss(0, 0.004), "eval/agreement_mean": 0.5 + 0.4 * at}
        rows.append((step, {**row, "eval/average_accuracy": anchor}))
    return rows


def test_the_slow_decline_is_seen_before_a_tenth_of_the_accuracy_is_lost() -> None:
    found = replay(slow_decline(1000, is_collapsing=True))
    assert found.lost_step is not None and found.alarm_step is not None
    assert found.peak_step == 500 and 500 < found.alarm_step < found.lost_step
    assert not replay(slow_decline(1000, is_collapsing=False)).first_trips


def test_accuracy_changes_no_verdict() -> None:
    rows = slow_decline(1000, is_collapsing=True)
    blind = [(step, {name: v for name, v in row.items() if name != "eval/average_accuracy"}) for step, row in rows]
    seen, unseen = replay(rows), replay(blind)
    assert (seen.alarm_step, seen.first_trips) == (unseen.alarm_step, unseen.first_trips)
    assert unseen.is_false_alarm is None and unseen.lead(unseen.alarm_step) is None


def test_columns_of_other_names_are_mapped_and_sparse_curves_read_between_their_points(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("# where from\nstep,reward,acc\n0,0.2,0.1\n4,0.4,\n")
    rows = read_source(tmp_path / "c.csv", {"reward": "vote/reward_mean", "acc": "eval/average_accuracy"})
    assert [step for step, _ in rows] == [0, 1, 2, 3, 4]
    assert [round(row["vote/reward_mean"], 3) for _, row in rows] == [0.2, 0.25, 0.3, 0.35, 0.4]
    assert [step for step, row in rows if "eval/average_accuracy" in row] == [0]


def test_a_run_s_superseded_rows_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "branch": 0, "incarnation": 0, "vote/reward_mean": 0.1},
        {"step": 1, "branch": 0, "incarnation": 0, "vote/reward_mean": 0.9},
        {"step": 1, "branch": 1, "incarnation": 1, "vote/reward_mean": 0.2, "audit/label_accuracy": 0.5},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["vote/reward_mean"] for _, row in read_source(tmp_path, {})] == [0.1, 0.2]
    assert read_source(path, {}) == read_source(tmp_path, {})


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("step,acc\n0,0.1\n")
    with pytest.raises(DataError, match="--column METRIC=COLUMN"):
        read_source(tmp_path / "c.csv", {})
    with pytest.raises(DataError, match="expected a run directory"):
        read_source(tmp_path / "none.csv", {})
    with pytest.raises(ConfigError, match="--column: metric 'eval/acc' is not registered"):
        read_source(tmp_path / "c.csv", {"acc": "eval/acc"})


def test_picking_ranks_evaluations_by_health_the_earlier_first_on_a_tie(tmp_path: Path) -> None:
    healths = {0: 0.4, 4: 0.6, 8: 0.6, 12: 0.1}
    rows = [{"step": s, "branch": 0, "incarnation": 0, "eval/health": h} for s, h in healths.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [step for step, _ in pick(tmp_path)] == [4, 8, 0, 12]
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match=r"set evaluation\.data"):
        pick(tmp_path)
