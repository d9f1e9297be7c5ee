"""Table, figure and published summary of an experiment made by hand."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from configs.experiment import ExperimentConfig
from orchestration.experiments.curves import RunCurves
from orchestration.experiments.matrix import cells_of, matrix_rows
from orchestration.experiments.publish import publish
from orchestration.experiments.report import Provenance, Results, markdown, write
from quorum.errors import ConfigError, DataError

EXPERIMENT = ExperimentConfig.model_validate(
    {"title": "Voting & gold", "base": {"preset": "demo"}, "arms": {"srt": [], "gold": []}, "seeds": 2}
)
FIGURES = {"srt_gain": 0.2, "share": None}


def scores(average: float, majority: float) -> dict[str, object]:
    return {"sources": {"sums": {"average_accuracy": [average, 0, 1], "majority_accuracy": [majority, 0, 1]}}}


def run(arm: str, seed: int, first: float, last: float) -> RunCurves:
    series = {
        "eval/average_accuracy": {0: first, 4: last},
        "eval/majority_accuracy": {0: first + 0.1, 4: last + 0.1},
        "vote/reward_mean": {step: 0.5 + 0.1 * step for step in range(4)},
    }
    return RunCurves(arm, seed, series, {0: scores(first, first + 0.1), 4: scores(last, last + 0.1)})


def results(**changes: object) -> Results:
    runs = {"srt": [run("srt", 0, 0.2, 0.3), run("srt", 1, 0.2, 0.5)], "gold": [run("gold", 0, 0.2, 0.6)]}
    cells = cells_of([one for held in runs.values() for one in held], 1.0)
    origin = Provenance("mine", "quorum experiment mine", "abc", "f00", "2 cores")
    made = {"experiment": EXPERIMENT, "runs": runs, "figures": FIGURES, "cells": cells, "origin": origin}
    return Results(**(made | changes))


def test_the_table_has_gains_in_points_with_an_interval_only_over_several_seeds() -> None:
    text = markdown(results())
    half = 100 * 12.706 * 0.1414213562 / 2**0.5  # t with one degree of freedom
    assert f"| srt | 2 | 20% | 40% | 40% | +20.0 +- {half:.1f} | 50% |" in text
    assert "| gold | 1 | 20% | 60% | 60% | +40.0 | 70% |" in text
    assert "| srt_gain | 0.2000 |" in text and "| share | not defined |" in text
    assert "Commit: `abc`" in text and "Configuration: `f00`" in text and "95% t-intervals" in text


def test_the_matrix_has_the_base_once_and_every_arm_at_its_end() -> None:
    head, rows = matrix_rows(results().cells)
    assert head == ["trained as", "sums, t=1"]
    assert rows == [["base", "20.0 / 30.0"], ["gold", "60.0 / 70.0"], ["srt", "40.0 / 50.0"]]
    assert matrix_rows([]) == (["trained as"], [])


def test_the_figure_is_a_file_of_its_own_with_a_band_only_over_several_seeds(tmp_path: Path) -> None:
    written = write(results(), tmp_path)
    assert [path.name for path in written] == ["mine.md", "mine.html", "mine.svg"]
    text = (tmp_path / "mine.svg").read_text()
    root = ET.fromstring(text)
    plots = root.findall("{http://www.w3.org/2000/svg}svg")
    assert len(plots) == 3, "one for each metric that was measured"
    assert text.count('class="band f0"') == 3 and 'class="band f1"' not in text
    assert "Voting &amp; gold" in text and "var(--" not in text
    assert "<h2>Trained on, tested on</h2>" in (tmp_path / "mine.html").read_text()


def test_the_summary_keeps_the_figures_of_other_experiments(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"other": 1.0, "share": 9.0, "experiments": {"old": {}}}))
    publish(results(), 3, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["other"], summary["srt_gain"]) == (1.0, 0.2)
    assert "share" not in summary, "what is not defined any more does not stay"
    assert list(summary["experiments"]) == ["old", "mine"]
    entry = summary["experiments"]["mine"]
    assert entry["commit"] == "abc" and entry["config_hash"] == "f00" and entry["figures"] == FIGURES


def test_nothing_is_published_of_an_experiment_that_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 of 4 runs are done"):
        publish(results(), 4, tmp_path)
    (tmp_path / "summary.json").write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        publish(results(), 3, tmp_path)
