"""The micro-batch plan: complete, balanced, equal in number on every rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batch import MIN_REPEATED_SHARE, REPEATED_WEIGHT, computed_tokens, plan_micro_batches
from learner.collate import collate
from quorum.types import ScoreReceipt
from tests.builders import make_completion, make_group, make_prompt, make_receipt, make_scored


def receipt(prompt_tokens, completions):
    lengths, trained = zip(*completions, strict=True)
    return ScoreReceipt(
        group_id=0,
        prompt_tokens=prompt_tokens,
        completion_tokens=lengths,
        trained=trained,
        truncated=(False,) * len(lengths),
        rewards=(0.0,) * len(lengths),
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
        assert len(batch) <= 1 or size(batch) <= max_tokens
        assert list(batch) == sorted(batch, key=lambda row: -row.num_tokens)


def size(batch):
    """What a micro-batch's limit counts, from its rows alone."""
    prompts = {row.group: row.prompt_tokens for row in batch if row.is_shared}
    repeats = [row for row in batch if row.is_shared]
    copies = sum(-(-row.prompt_tokens // REPEATED_WEIGHT) for row in repeats)
    copies -= sum(-(-tokens // REPEATED_WEIGHT) for tokens in prompts.values())
    return computed_tokens(batch) + copies


@given(st.lists(groups, max_size=8), st.integers(1, 5), st.integers(1, 2000), st.booleans())
def test_prompts_are_shared_where_repeating_them_is_a_large_part_and_nowhere_else(
    receipts, num_ranks, max_tokens, may_share
):
    plan = plan_micro_batches(receipts, num_ranks, max_tokens, may_share=may_share)
    rows = [row for rank in plan.ranks for batch in rank for row in batch]
    once = sum({row.group: row.prompt_tokens for row in rows}.values())
    repeated = sum(row.prompt_tokens for row in rows) - once
    wanted = may_share and repeated > MIN_REPEATED_SHARE * plan.num_tokens
    assert {row.is_shared for row in rows} <= {wanted}
    assert all(row.prompt_tokens == receipts[row.group].prompt_tokens for row in rows)


@given(st.lists(groups, min_size=1, max_size=8), st.integers(1, 5), st.integers(100, 2000))
def test_a_group_whose_prompt_is_shared_is_divided_only_where_a_rank_or_a_micro_batch_ends(
    receipts, num_ranks, max_tokens
):
    plan = plan_micro_batches(receipts, num_ranks, max_tokens)
    shared = [{row.group for row in batch if row.is_shared} for rank in plan.ranks for batch in rank]
    num_parts = sum(map(len, shared))
    assert num_parts <= len(set().union(*shared)) + max(0, sum(map(bool, shared)) - 1)


@given(st.lists(groups, min_size=1, max_size=8), st.integers(1, 4))
def test_sharing_ranks_compute_the_same_up_to_a_row_and_its_prompt_at_each_end(receipts, num_ranks):
    plan = plan_micro_batches(receipts, num_ranks, 10**6, attention_tokens=10**9)
    rows = [row for rank in plan.ranks for batch in rank for row in batch]
    if not all(row.is_shared for row in rows):
        return
    loads = [sum(map(computed_tokens, rank)) for rank in plan.ranks]
    longest = max((row.num_tokens for row in rows), default=0)
    assert max(loads) - min(loads) <= 3 * longest


@given(st.lists(groups, min_size=1, max_size=8), st.integers(1, 4))
def test_no_rank_has_more_than_one_row_more_work_than_another(receipts, num_ranks):
    plan = plan_micro_batches(receipts, num_ranks, 512, attention_tokens=10**9, may_share=False)
    loads = [sum(row.num_tokens for batch in rank for row in batch) for rank in plan.ranks]
    longest = max((row.num_tokens for rank in plan.ranks for batch in rank for row in batch), default=0)
    assert max(loads) - min(loads) <= longest


def test_fewer_completions_than_ranks_leave_dummies():
    plan = plan_micro_batches([receipt(3, [(5, True)])], 3, 100)
    assert [len(rank[0]) for rank in plan.ranks] == [1, 0, 0]


def test_nothing_trained_means_no_micro_batch():
    assert plan_micro_batches([receipt(3, [(5, False)])], 2, 100).num_micro_batches == 0
    assert plan_micro_batches([], 2, 100).num_micro_batches == 0


def test_a_longer_row_goes_alone_and_the_others_are_packed():
    completions = [(90, True), (30, True), (30, True), (20, True)]
    plan = plan_micro_batches([receipt(10, completions)], 1, 80, may_share=False)
    assert [[row.num_tokens for row in batch] for batch in plan.ranks[0]] == [[100], [40], [40, 30]]
    assert plan.num_tokens == 210


def test_micro_batches_are_as_even_as_their_rows_allow():
    plan = plan_micro_batches([receipt(10, [(90, True)] * 12)], 1, 1000)
    assert [len(batch) for batch in plan.ranks[0]] == [6, 6]


@given(st.lists(groups, min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 2000))
def test_the_limit_is_used(receipts, num_ranks, max_tokens):
    """Two neighbours of the rank that needs most micro-batches would not fit into one."""
    plan = plan_micro_batches(receipts, num_ranks, max_tokens, may_share=False)
    loads = [sum(row.num_tokens for batch in rank for row in batch) for rank in plan.ranks]
    assert plan.num_micro_batches <= 2 * max(loads) / max_tokens + 1


def test_a_plan_needs_a_rank_and_a_token():
    with pytest.raises(ValueError, match="at least 1"):
        plan_micro_batches([], 0, 100)


def test_collated_positions_point_at_the_token_before_each_target():
    prompt = make_prompt(0, (3, 4, 5))
    long = make_completion(0, (7, 8, 9), logprobs=(-1, -2, -3))
    short = make_completion(1, (6,), logprobs=(-4,))
    scored = make_scored(make_group([long, short], prompt=prompt), [1, 0])
    plan = plan_micro_batches([make_receipt(scored)], 1, 100, may_share=False)
    batch = collate(plan.ranks[0][0], [scored.group])
    assert batch.input_ids.tolist() == [[3, 4, 5, 7, 8, 9, 3, 4, 5, 6]]
    assert batch.lengths == (6, 4)
    assert (batch.input_ids[0, batch.positions + 1] == batch.targets).all()
    assert batch.targets.tolist() == [7, 8, 9, 6]
    assert batch.rollout_logprobs.tolist() == [-1, -2, -3, -4]
    assert batch.rows.tolist() == [0, 0, 0, 1]


def test_a_shared_prompt_stands_first_and_predicts_the_first_token_of_each_completion():
    prompt = make_prompt(0, (3, 4, 5))
    scored = make_scored(make_group([(7, 8, 9), (6,)], prompt=prompt), [1, 0])
    plan = plan_micro_batches([make_receipt(scored)], 1, 100)
    batch = collate(plan.ranks[0][0], [scored.group])
    assert batch.input_ids.tolist() == [[3, 4, 5, 7, 8, 9, 6]]
    assert (batch.lengths, batch.continues) == ((3, 3, 1), (-1, 0, 0))
    assert batch.positions.tolist() == [2, 3, 4, 2]
    assert batch.targets.tolist() == [7, 8, 9, 6]
    assert batch.rows.tolist() == [0, 0, 0, 1]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=5),
    st.integers(20, 200),
)
def test_expanding_a_shared_row_gives_the_row_without_sharing(shapes, max_tokens):
    """Sequence by sequence: what a completion continues, and itself, is its row; it is predicted at the same tokens."""
    tokens = iter(range(10**6))

    def draw(count):
        return [next(tokens) for _ in range(count)]

    made = [
        make_group([draw(n) for n in c], group_id=i, prompt=make_prompt(i, draw(p))) for i, (p, c) in enumerate(shapes)
    ]
    receipts = [make_receipt(make_scored(group, [0] * len(group.completions))) for group in made]
    for micro_batch in plan_micro_batches(receipts, 1, max_tokens).ranks[0]:
        batch = collate(micro_batch, made)
        plain = collate([row._replace(is_shared=False) for row in micro_batch], made)
        parts = np.split(batch.input_ids[0], np.cumsum(batch.lengths)[:-1])
        if batch.continues:
            parts = [np.r_[parts[i], part] for part, i in zip(parts, batch.continues, strict=True) if i >= 0]
        assert np.concatenate(parts).tolist() == plain.input_ids[0].tolist()
        assert batch.input_ids.shape[1] == computed_tokens(micro_batch)
        assert (batch.input_ids[0][batch.positions] == plain.input_ids[0][plain.positions]).all()
        for name in ("targets", "rows", "rollout_logprobs"):
            assert (getattr(batch, name) == getattr(plain, name)).all()


def test_a_dummy_has_one_token_and_no_target():
    batch = collate((), [None])
    assert batch.input_ids.shape == (1, 1)
    assert batch.lengths == (1,)
    assert len(batch.targets) == 0
    assert batch.positions.dtype == np.int64
