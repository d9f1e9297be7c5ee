"""How kept groups end, and what is said of a step that trained on none."""

from __future__ import annotations

from dataclasses import replace

from configs.load import load_config
from orchestration.end_states import kept_states, why_empty
from orchestration.vote_phase import StepVote
from quorum.types import EndState, UpdateStats
from tests.builders import make_completion, make_group, make_receipt, make_scored

NOTHING = UpdateStats(
    step=0,
    version=0,
    num_updates=0,
    loss=0.0,
    grad_norm=0.0,
    kl=0.0,
    entropy=0.0,
    logprob_gap=0.0,
    clip_share=0.0,
    num_tokens=0,
    seconds=0.0,
)


def receipt(*finish_reasons: str):  # type: ignore[no-untyped-def]
    completions = [make_completion(i, [5, 6], finish_reason=reason) for i, reason in enumerate(finish_reasons)]
    return make_receipt(make_scored(make_group(completions), [1.0] * len(completions)))


def test_a_group_whose_completions_are_all_left_out_for_their_length_ends_as_too_long() -> None:
    receipts = [receipt("stop", "length"), receipt("length", "length")]
    config = load_config("demo", ["learner.overlong.mask=true"])
    assert kept_states(config, receipts, has_learner=True) == [EndState.TRAINED, EndState.TOO_LONG]
    assert kept_states(config, receipts, has_learner=False) == [EndState.VOTE_ONLY] * 2
    assert kept_states(load_config("demo"), receipts, has_learner=True) == [EndState.TRAINED] * 2


def test_a_step_without_an_update_names_its_cause() -> None:
    skipped = replace(NOTHING, extra={"learn/num_skipped_updates": 1.0})
    assert "lower learner.learning_rate" in why_empty(StepVote(receipts=[receipt("stop", "stop")]), skipped)
    assert "learner.overlong.mask" in why_empty(StepVote(receipts=[receipt("length", "length")]), NOTHING)
    assert "voting.extractor" in why_empty(StepVote(), NOTHING)
