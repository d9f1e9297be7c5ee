"""What contradicts what in the learner's section is refused, and the refusal says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from configs.learner_sections import LearnerSection


def problems(top_p: float = 1.0, **settings: Any) -> list[str]:
    return LearnerSection.model_validate(settings).problems(top_p=top_p)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"updates_per_step": 8, "epochs_per_step": 3}, "does not divide learner.updates_per_step 8"),
        ({"aggregation_length": 10}, "counts under learner.aggregation=sequence_constant alone"),
        ({"schedule": "cosine"}, "needs learner.decay_updates above learner.warmup_steps"),
        ({"kl": {"target": 0.1}}, "start above 0"),
        ({"kl": {"reference": "average"}}, "set learner.kl.coefficient above 0"),
        ({"old_logprobs": "current", "updates_per_step": 2}, "use rollout or recompute"),
        ({"covariance": {"mode": "clip"}}, "set learner.old_logprobs to recompute or rollout"),
        ({"covariance": {"mode": "kl"}, "old_logprobs": "recompute"}, "set learner.updates_per_step above 1"),
        ({"importance": {"mode": "truncate", "low": 0.5}}, "counts under mode=mask alone"),
        ({"importance": {"mode": "mask", "low": 3.0}}, "must be below high 2"),
        ({"importance": {"mode": "truncate"}, "updates_per_step": 2}, "the ratio does that already"),
        ({"num_ranks": 3, "sequence_parallel_size": 2}, "does not divide learner.num_ranks 3"),
        ({"offload": "all", "zero_stage": 2}, "needs learner.zero_stage 3"),
        ({"offload": "optimizer", "zero_stage": 0}, "needs learner.zero_stage 1 or more"),
    ],
)
def test_a_contradiction_is_one_sentence_with_the_way_out(settings: dict[str, Any], expected: str) -> None:
    [problem] = problems(**settings)
    assert expected in problem


@pytest.mark.parametrize("settings", [{"importance": {"mode": "truncate"}}, {"updates_per_step": 2}])
def test_a_cut_distribution_cannot_be_compared_with_the_whole_one(settings: dict[str, Any]) -> None:
    [problem] = problems(top_p=0.9, **settings)
    assert "set rollout.top_p to 1" in problem
    assert problems(top_p=1.0, **settings) == []


def test_auto_takes_the_current_log_probabilities_only_where_they_are_the_samplers() -> None:
    assert LearnerSection().old_source == "current"
    assert LearnerSection(updates_per_step=2).old_source == "rollout"
    assert LearnerSection(old_logprobs="recompute").old_source == "recompute"
