"""The pure parts of `quorum bench learn`: the work both sides are given, and what is made of their times."""

import numpy as np
import pytest

from benchmarks.learn import CASES, Pair, figures, headline
from benchmarks.learn_sides import padded_batch
from benchmarks.learn_work import PROMPT_TOKENS, Work, bound_seconds, leave_one_out
from learner.algorithms import rloo
from learner.batch import plan_micro_batches
from quorum.registry import Options

SPREAD = Work("spread", 32, 16, 0)


def test_the_spread_work_has_the_lengths_it_promises():
    lengths = np.asarray(SPREAD.lengths())
    assert lengths.shape == (32, 16)
    assert 1 <= lengths.min() and lengths.max() == 192
    assert 70 <= lengths.mean() <= 84
    short = np.asarray(Work("short", 32, 16, 0).lengths())
    assert (short.min(), short.max()) == (4, 30)


def test_the_same_seed_makes_the_same_batch_and_it_has_the_tokens_that_are_counted():
    first, second = SPREAD.batch(), SPREAD.batch()
    for one, other in zip(first.groups, second.groups, strict=True):
        assert np.array_equal(one.rewards, other.rewards)
        for a, b in zip(one.group.completions, other.group.completions, strict=True):
            assert np.array_equal(a.token_ids, b.token_ids)
    assert plan_micro_batches(first.receipts, 1, 2048).num_tokens == SPREAD.num_tokens()


def test_the_padded_batch_holds_the_same_tokens():
    work = Work("short", 2, 4, 3)
    padded, batch = padded_batch(work), work.batch()
    rows = [c.token_ids for scored in batch.groups for c in scored.group.completions]
    assert padded["prompt_ids"].shape == (8, PROMPT_TOKENS)
    for ids, mask, tokens in zip(padded["completion_ids"], padded["completion_mask"], rows, strict=True):
        assert ids[mask == 1].tolist() == tokens.tolist()
    assert padded["num_items_in_batch"] == sum(map(len, rows))
    real = padded["completion_mask"].sum() + padded["prompt_mask"].sum()
    total = padded["completion_mask"].size + padded["prompt_mask"].size
    assert work.padded_share() == pytest.approx(1 - real / total)


def test_the_advantages_handed_over_are_those_that_the_learner_computes():
    rewards = np.asarray([1.0, 0.0, 0.0, 1.0, 1.0])
    expected = rloo.leave_one_out(rewards, np.ones(5, dtype=bool), Options())
    assert leave_one_out(rewards) == pytest.approx(expected)


def test_figures_are_medians_of_paired_ratios():
    pairs = [Pair(ours=1.0, trl=3.0, bound=0.5), Pair(ours=2.0, trl=4.0, bound=0.5), Pair(ours=4.0, trl=4.0, bound=3.0)]
    found = figures("x", pairs, 100)
    assert found == {
        "over_trl_x": 2.0,
        "share_of_bound_x": 0.5,
        "tokens_per_second_x": 50.0,
        "trl_tokens_per_second_x": 25.0,
    }
    assert bound_seconds(10, 100, 6000.0) == 1.0


def test_the_result_has_the_names_that_are_promised():
    values = {}
    for case in CASES:
        values |= figures(case.name, [Pair(1.0, 2.0, 0.5)], 1)
    names = {"over_trl", "over_trl_short", "share_of_bound_1m", "share_of_bound_10m", "share_of_bound_50m"}
    assert names <= set(headline(values))
