"""guard: what it may do must be possible."""

from __future__ import annotations

from typing import Any

import pytest

from configs.schema import RunConfig

KEPT = {"evaluation": {"data": [{"path": "p"}], "every_steps": 5}, "checkpoint": {"keep_best": 1}}


def config(guard: dict[str, Any], **sections: Any) -> RunConfig:
    needed = {"run": {"dir": "r"}, "model": {"path": "m"}, "data": {"train": [{"path": "p"}]}}
    return RunConfig.model_validate({**needed, "guard": guard, **sections})


def test_it_only_speaks_by_default() -> None:
    assert config({}).guard.actions == frozenset()


def test_a_rollback_needs_kept_checkpoints() -> None:
    assert config({"on_alarm": ["rollback"]}, **KEPT).guard.actions == {"rollback"}
    for field in ("on_alarm", "on_warning"):
        with pytest.raises(ValueError, match=r"set checkpoint.keep_best=2 and checkpoint.best_metric=eval/health"):
            config({field: ["rollback"]})


def test_raising_the_kl_needs_one() -> None:
    assert config({"on_alarm": ["raise_kl"]}, learner={"kl": {"coefficient": 0.01}}).guard.actions == {"raise_kl"}
    with pytest.raises(ValueError, match=r"multiplies learner.kl.coefficient, which is 0"):
        config({"on_alarm": ["raise_kl"]}, learner={"kl": {"coefficient": 0.0}})


def test_it_acts_on_training_alone() -> None:
    with pytest.raises(ValueError, match=r"this is run.mode=rollout_only"):
        config({"on_alarm": ["lower_lr"]}, run={"dir": "r", "mode": "rollout_only"})
    config({"on_alarm": ["stop"]}, run={"dir": "r", "mode": "rollout_only"})


@pytest.mark.parametrize(
    "field", [{"on_alarm": ["explode"]}, {"learning_rate_factor": 1.0}, {"kl_factor": 1.0}, {"alarm_at": 0.0}]
)
def test_values_that_cannot_be_meant_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        config(field)
