"""The micro-batch plan: complete, balanced, equal in number on every rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batch import collate, padded_tokens, plan_micro_batches
from quorum.types import ScoreReceipt
from tests.builders import make_completion, make_group, make_prompt, make_receipt, make_scored


def receipt(prompt_tokens, completions):
    lengths, trained = zip(*completions, strict=True)
    return ScoreReceipt(
        group_id=0,
        prompt_tokens=prompt_tokens,
        completion_tokens=lengths,
        trained=trained,
        reward_sum=0.0,
        reward_hash="",
    )


groups = st.builds(
    receipt, st.integers(1, 50), st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=20)
)


@given(st.lists(groups, max_size=8), st.integers(1, 5), st.integers(1, 2000))
def test_every_trained_completion_is_planned_once_and_ranks_march_in_step(receipts, num_ranks, max_tokens):
    plan = plan_micro_batches(receipts, num_ranks, max_tokens)
    planned = [(row.group, row.completion) for rank in plan.ranks for batch in rank for row in batch]
    wanted = [(g, c) for g, r in enumerate(receipts) for c, used in enumerate(r.trained) if used]
    assert sorted(planned) == wanted
    assert len(plan.ranks) == num_ranks
    assert {len(rank) for rank in plan.ranks} == {plan.num_micro_batches}
    for batch in (batch for rank in plan.ranks for batch in rank):
        assert len(batch) <= 1 or padded_tokens(batch) <= max_tokens


@given(st.lists(groups, min_size=1, max_size=8), st.integers(1, 4))
def test_no_rank_has_more_than_one_row_more_work_than_another(receipts, num_ranks):
    plan = plan_micro_batches(receipts, num_ranks, 512, attention_tokens=10**9)
    loads = [sum(row.num_tokens for batch in rank for row in batch) for rank in plan.ranks]
    longest = max((row.num_tokens for rank in plan.ranks for batch in rank for row in batch), default=0)
    assert max(loads) - min(loads) <= longest


def test_fewer_completions_than_ranks_leave_dummies():
    plan = plan_micro_batches([receipt(3, [(5, True)])], 3, 100)
    assert [len(rank[0]) for rank in plan.ranks] == [1, 0, 0]


def test_nothing_trained_means_no_micro_batch():
    assert plan_micro_batches([receipt(3, [(5, False)])], 2, 100).num_micro_batches == 0
    assert plan_micro_batches([], 2, 100).num_micro_batches == 0


def test_padding_counts_and_a_longer_row_goes_alone():
    plan = plan_micro_batches([receipt(10, [(90, True), (30, True), (30, True), (20, True)])], 1, 80)
    assert [[row.num_tokens for row in batch] for batch in plan.ranks[0]] == [[100], [40, 40], [30]]
    assert plan.num_padded_tokens == plan.num_tokens == 210


def test_a_large_limit_does_not_buy_padding():
    plan = plan_micro_batches([receipt(10, [(n, True) for n in range(1, 513)])], 1, 10**6)
    assert plan.num_micro_batches > 1
    assert 1 - plan.num_tokens / plan.num_padded_tokens < 0.12


def test_a_plan_needs_a_rank_and_a_token():
    with pytest.raises(ValueError, match="at least 1"):
        plan_micro_batches([], 0, 100)


def test_collated_positions_point_at_the_token_before_each_target():
    prompt = make_prompt(0, (3, 4, 5))
    long = make_completion(0, (7, 8, 9), logprobs=(-1, -2, -3))
    short = make_completion(1, (6,), logprobs=(-4,))
    scored = make_scored(make_group([long, short], prompt=prompt), [1, 0])
    plan = plan_micro_batches([make_receipt(scored)], 1, 100)
    batch = collate(plan.ranks[0][0], [scored])
    assert batch.input_ids.tolist() == [[3, 4, 5, 7, 8, 9], [3, 4, 5, 6, 0, 0]]
    flat = batch.input_ids.reshape(-1)
    assert (flat[batch.positions + 1] == batch.targets).all()
    assert batch.targets.tolist() == [7, 8, 9, 6]
    assert batch.rollout_logprobs.tolist() == [-1, -2, -3, -4]
    assert batch.rows.tolist() == [0, 0, 0, 1]


def test_a_dummy_has_one_padding_token_and_no_target():
    batch = collate((), [None])
    assert batch.input_ids.shape == (1, 1)
    assert len(batch.targets) == 0
    assert batch.positions.dtype == np.int64
