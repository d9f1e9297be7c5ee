"""Results with the repeats behind them, stored and compared: each figure in its better direction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.baseline import Better, check_workload, compare, describe, direction, read_baseline
from benchmarks.results import BenchResult, Median, write_result
from quorum.errors import ConfigError, DataError

RESULT = BenchResult(
    "toy",
    {"over_bare": Median([1.2, 1.0, 1.1]), "tokens_per_second": Median([90.0, 110.0, 100.0]), "tokens_equal": True},
    seed=3,
    repeats=3,
    workload={"workload": "short"},
)


def stored(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "base.json"
    write_result(path, RESULT)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_result_stores_machine_versions_revision_and_every_repeat(tmp_path: Path) -> None:
    document = read_baseline(stored(tmp_path))
    assert document["figures"] == {"over_bare": 1.1, "tokens_per_second": 100.0, "tokens_equal": True}
    assert document["spread"]["over_bare"] == {"lowest": 1.0, "highest": 1.2, "values": [1.2, 1.0, 1.1]}
    assert document["workload"] == {"workload": "short", "seed": 3}
    assert "cores" in document["machine"] and "python" in document["versions"]
    assert set(document) >= {"revision", "repeats", "schema"}


def test_the_result_line_has_figures_workload_and_medians_as_numbers() -> None:
    line = json.loads(str(RESULT).removeprefix("RESULT "))
    assert (line["bench"], line["workload"], line["over_bare"], line["repeats"]) == ("toy", "short", 1.1, 3)


def test_the_table_shows_median_and_spread_of_every_figure() -> None:
    head, over, _, equal = RESULT.table()
    assert head.split() == ["figure", "median", "lowest", "highest"]
    assert over.split() == ["over_bare", "1.1", "1", "1.2"]
    assert equal.split() == ["tokens_equal", "True"]


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("step_over_bare", Better.LOWER),
        ("rest_share", Better.LOWER),
        ("startup_over_slowest", Better.LOWER),
        ("over_trl", Better.HIGHER),
        ("over_trl_short", Better.HIGHER),
        ("share_of_bound_10m", Better.HIGHER),
        ("math_verify_over_loop_1", Better.HIGHER),
        ("hanging_share_of_rate", Better.HIGHER),
        ("share_of_step", Better.LOWER),
        ("replace_milliseconds_max", Better.LOWER),
        ("linear_share_256", Better.HIGHER),
        ("controller_ms_per_group", Better.LOWER),
        ("wire_share_of_broadcast", Better.HIGHER),
        ("wire_gbps_200mb_2", Better.HIGHER),
        ("stall_over_transfer_seconds", Better.LOWER),
        ("rollout_bound_overlap_over_max", Better.LOWER),
        ("vote_only_tokens_saved", Better.HIGHER),
        ("groups_lost", Better.LOWER),
        ("peak_mib_3m", Better.LOWER),
        ("completions_per_second", Better.HIGHER),
        ("first_update_seconds", Better.LOWER),
        ("trl_tokens_per_second_3m", None),
        ("trl_peak_mib_3m", None),
        ("bare_seconds", None),
        ("loop_per_second", None),
        ("copy_gbps_200mb_2", None),
        ("broadcast_gbps_200mb_2", None),
        ("completion_tokens_mean", None),
        ("trl_rows_3m", None),
    ],
)
def test_figures_are_judged_in_their_better_direction_and_the_other_sides_not_at_all(
    name: str, better: Better | None
) -> None:
    assert direction(name) is better


def moved(over: float, rate: float) -> dict[str, Any]:
    return RESULT.document() | {"figures": {"over_bare": over, "tokens_per_second": rate, "tokens_equal": False}}


def test_only_what_is_worse_by_more_than_the_tolerance_is_told(tmp_path: Path) -> None:
    baseline = read_baseline(stored(tmp_path))
    rows = {row.name: row for row in compare(baseline, moved(1.2, 91.0), 0.10)}
    assert set(rows) == {"over_bare", "tokens_per_second"}
    assert not any(row.is_worse for row in rows.values()), "9% worse, both of them"
    assert [row.is_worse for row in compare(baseline, moved(1.25, 89.0), 0.10)] == [True, True]
    assert [row.is_worse for row in compare(baseline, moved(0.5, 300.0), 0.0)] == [False, False], "better is fine"
    assert [row.is_worse for row in compare(baseline, moved(1.1, 100.0), 0.0)] == [False, False]


def test_on_another_machine_only_ratios_are_judged_and_it_is_said_loudly(tmp_path: Path) -> None:
    baseline = read_baseline(stored(tmp_path, machine="an abacus"))
    now = moved(2.0, 1.0)
    rows = {row.name: row for row in compare(baseline, now, 0.10)}
    assert rows["over_bare"].is_worse and not rows["tokens_per_second"].is_worse
    lines = describe(baseline, now, list(rows.values()))
    assert any(line.startswith("ANOTHER MACHINE") and "an abacus" in line for line in lines)


@pytest.mark.parametrize(("name", "is_judged"), [("rest_share", True), ("linear_share_4", False)])
def test_a_share_that_depends_on_the_cores_is_judged_on_the_same_machine_only(name: str, is_judged: bool) -> None:
    baseline = RESULT.document() | {"figures": {name: 0.5}}
    [row] = compare(baseline | {"machine": "an abacus"}, baseline, 0.10)
    assert (row.better is not None) == is_judged
    [row] = compare(baseline, baseline, 0.10)
    assert row.better is not None


def test_versions_that_changed_and_figures_that_went_are_named(tmp_path: Path) -> None:
    base = stored(tmp_path, versions={"python": "2.7"}, figures={"over_bare": 1.1, "gone_seconds": 1.0})
    baseline = read_baseline(base)
    lines = describe(baseline, moved(1.1, 1.0), compare(baseline, moved(1.1, 1.0), 0.1))
    assert any("versions differ: python 2.7 ->" in line for line in lines)
    assert "in the baseline alone: gone_seconds" in lines


def test_a_baseline_of_another_bench_or_workload_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    baseline = read_baseline(path)
    check_workload(baseline, "toy", {"workload": "short", "seed": 3}, path)
    with pytest.raises(ConfigError, match="bench toy, this is other"):
        check_workload(baseline, "other", {"workload": "short", "seed": 3}, path)
    with pytest.raises(ConfigError, match="seed 3 there, 4 here; workload 'short' there, 'spread' here"):
        check_workload(baseline, "toy", {"workload": "spread", "seed": 4}, path)


@pytest.mark.parametrize("text", ["", "[]", '{"bench": "toy"}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(DataError, match="--json"):
        read_baseline(path)
    with pytest.raises(DataError, match="--json"):
        read_baseline(tmp_path / "nowhere.json")


def test_a_result_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="store it again"):
        read_baseline(stored(tmp_path, schema=99))
