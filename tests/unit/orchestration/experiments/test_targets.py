"""Targets: every bound on hand-made rows, what was not measured, and the file of the presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.load import preset_names
from orchestration.experiments.targets import Target, check_targets, load_targets, read_run_rows
from orchestration.registries import load_run_config
from quorum.errors import ConfigError

ACCURACY = "eval/average_accuracy"


def target(**changes: Any) -> Target:
    fields = {"metric": ACCURACY, "steps": [100, 300], "from": "Fig. 2", **changes}
    return Target.model_validate(fields)


def rows(*values: float | None, metric: str = ACCURACY) -> list[dict[str, Any]]:
    """One row per hundred steps, from 0."""
    return [{"step": 100 * index, metric: value} for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("of", "bound", "status", "step"),
    [
        ("last", {"at_least": 0.3}, "missed", 300),
        ("last", {"at_most": 0.2}, "met", 300),
        ("max", {"at_least": 0.3}, "met", 200),
        ("any", {"at_least": 0.3}, "met", 200),
        ("any", {"at_least": 0.4}, "missed", 300),
        ("all", {"at_least": 0.2}, "met", 300),
        ("all", {"at_least": 0.25}, "missed", 100),
        ("last", {"about": 0.22, "tolerance": 0.02}, "met", 300),
        ("last", {"about": 0.22, "tolerance": 0.01}, "missed", 300),
    ],
)
def test_a_bound_holds_for_the_rows_that_it_names(of: str, bound: dict[str, float], status: str, step: int) -> None:
    # Rows outside the steps (0 and 400) would change every verdict.
    [check] = check_targets(rows(0.9, 0.21, 0.3, 0.2, 0.0), [target(of=of, **bound)])
    assert (check.status, check.step) == (status, step)


def test_bounds_are_inclusive_and_taken_without_tolerance() -> None:
    exact = [target(at_least=0.3, steps=[0, 0]), target(at_most=0.3, steps=[0, 0])]
    assert [check.status for check in check_targets(rows(0.3), exact)] == ["met", "met"]
    assert check_targets(rows(0.2999), exact[:1])[0].status == "missed"


def test_what_was_not_measured_is_not_met() -> None:
    late, never = target(at_most=1.0, steps=[500, 600]), target(metric="vote/agreement_mean", at_most=1.0)
    checks = check_targets(rows(0.1, 0.2, None), [late, never])
    assert [(check.status, check.value) for check in checks] == [("not_measured", None)] * 2
    assert checks[0].sentence.startswith("not measured")


def test_sets_are_averaged_alike_and_all_of_them_must_be_there() -> None:
    sources = {"a": {"average_accuracy": [0.2, 0, 1]}, "b": {"average_accuracy": [0.4, 0, 1]}}
    row = {"step": 100, ACCURACY: 0.9, "sources": sources}
    both = target(sets=["a", "b"], about=0.3, tolerance=0.001)
    assert check_targets([row], [both])[0].value == pytest.approx(0.3)
    assert check_targets([row], [target(sets=["a", "c"], at_least=0.0)])[0].status == "not_measured"


def test_a_variant_s_rows_are_compared_with_its_targets_alone() -> None:
    targets = [target(at_least=0.1, steps=[0, 0]), target(at_least=0.1, steps=[0, 0], variant="sft")]
    assert [check.target.variant for check in check_targets(rows(0.2), targets)] == [None]
    assert [check.target.variant for check in check_targets(rows(0.2), targets, variant="sft")] == ["sft"]


def test_rows_of_one_step_add_up() -> None:
    split = [{"step": 100, ACCURACY: None}, {"step": 100, "vote/agreement_mean": 0.5}, {"step": 100, ACCURACY: 0.4}]
    assert check_targets(split, [target(at_least=0.4)])[0].status == "met"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at_least": 0.1, "at_most": 0.2}, "exactly one"),
        ({}, "exactly one"),
        ({"at_least": 0.1, "tolerance": 0.1}, "tolerance belongs to about"),
        ({"at_least": 0.1, "steps": [3, 1]}, "the first comes first"),
        ({"at_least": 0.1, "metric": "eval/avrage_accuracy"}, "did you mean eval/average_accuracy"),
        ({"at_least": 0.1, "metric": "learn/kl_mean", "sets": ["a"]}, "not measured by data source"),
        ({"at_least": 0.1, "unit": "x"}, "unit"),
    ],
)
def test_a_target_that_says_nothing_sound_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    fields = {"metric": ACCURACY, "steps": [0, 1], "from": "x", **changes}
    path = tmp_path / "targets.yaml"
    path.write_text(json.dumps({"tolerance": 0.1, "presets": {"p": [fields]}}))
    with pytest.raises(ConfigError, match=message):
        load_targets(path)


def test_a_run_s_superseded_rows_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    evaluations = [
        {"step": 100, "branch": 0, "incarnation": 1, ACCURACY: 0.1, "sources": {}},
        {"step": 100, "branch": 0, "incarnation": 0, ACCURACY: 0.9, "sources": {}},
    ]
    (tmp_path / "audit" / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations))
    (tmp_path / "metrics.jsonl").write_text('{"step": 100, "branch": 0, "incarnation": 0, "learn/kl_mean": 0.5}\n')
    checks = check_targets(
        read_run_rows(tmp_path), [target(about=0.1, tolerance=0), target(metric="learn/kl_mean", at_least=0.5)]
    )
    assert [check.status for check in checks] == ["met", "met"]


def test_every_paper_preset_has_a_target_or_says_why_not_and_no_target_is_without_a_preset() -> None:
    targets = load_targets()
    assert sorted(targets) == [name for name in preset_names() if name.startswith("paper/")]
    for name, one in targets.items():
        assert one.targets or (one.why_none or "").startswith("none: "), name


def test_targets_can_be_measured_by_their_presets() -> None:
    for name, one in load_targets().items():
        config = load_run_config(name)
        evaluated = {Path(source.path).stem.replace("dapo_heldout", "dapo") for source in config.evaluation.data}
        cadence = config.evaluation.every_steps
        for target in one.targets:
            assert set(target.sets) <= evaluated, (name, target)
            first, last = target.steps
            steps = {0, *range(0, config.run.num_steps, cadence), config.run.num_steps}
            assert any(first <= step <= last for step in steps), (name, target.steps)


def test_the_paper_s_regression_targets_are_all_there() -> None:
    bounds = {
        (name.removeprefix("paper/"), target.at_least, target.at_most, target.about)
        for name, one in load_targets().items()
        for target in one.targets
        if target.source == "Regression targets"
    }
    model = "qwen2.5-math-7b"
    assert bounds == {
        (f"{model}-dapo", None, None, 0.15),
        (f"{model}-dapo", 0.30, None, None),
        (f"{model}-dapo", None, 0.05, None),
        (f"{model}-dapo-offline", 0.29, None, None),
        (f"{model}-dapo-easy-pass-rate", 0.30, None, None),
        (f"{model}-dapo-gold", 0.35, None, None),
        (f"{model}-math12k", 0.31, None, None),
    }
