"""checkpoint.keep_best: what may tell the best is a registered metric, and must be measured."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from configs.schema import CheckpointSection, RunConfig
from orchestration.watch.metrics import METRICS

EVALUATED = {"data": [{"path": "held-out.jsonl"}], "every_steps": 5}


def config(checkpoint: dict[str, Any], **sections: Any) -> RunConfig:
    needed = {"run": {"dir": "r"}, "model": {"path": "m"}, "data": {"train": [{"path": "p"}]}}
    return RunConfig.model_validate({**needed, "checkpoint": checkpoint, **sections})


def test_what_tells_the_best_is_registered_and_without_labels_by_default() -> None:
    names = get_args(CheckpointSection.model_fields["best_metric"].annotation)
    assert set(names) <= METRICS.keys()
    assert CheckpointSection().best_metric == "eval/agreement_mean"
    assert "no reference" in METRICS["eval/agreement_mean"].help


def test_the_best_needs_evaluations_while_training() -> None:
    assert config({"keep_best": 2}, evaluation=EVALUATED).checkpoint.keep_best == 2
    for evaluation in ({}, {**EVALUATED, "every_steps": 0}):
        with pytest.raises(ValueError, match=r"set evaluation.data and evaluation.every_steps, or keep_best to 0"):
            config({"keep_best": 2}, evaluation=evaluation)


def test_accuracy_needs_the_audit_that_measures_it() -> None:
    by_accuracy = {"keep_best": 1, "best_metric": "eval/average_accuracy"}
    assert config(by_accuracy, evaluation=EVALUATED).report.audit
    with pytest.raises(ValueError, match=r"best_metric eval/average_accuracy is measured by the audit, which is off"):
        config(by_accuracy, evaluation=EVALUATED, report={"audit": False})
    config({"keep_best": 1}, evaluation=EVALUATED, report={"audit": False})
