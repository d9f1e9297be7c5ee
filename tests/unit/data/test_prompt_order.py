"""The endless order of prompts: a pure function of seed and admission number."""

from __future__ import annotations

import pytest

from data.prompts import PromptSet
from tests.builders import make_prompt

PROMPTS = PromptSet(tuple(make_prompt(n) for n in range(7)))


def ids(order, start, stop):
    return [order.prompt_at(i).prompt_id for i in range(start, stop)]


def test_every_epoch_shows_every_prompt_once_in_another_order():
    order = PROMPTS.order(seed=3, shuffle=True)
    epochs = [ids(order, 7 * e, 7 * e + 7) for e in range(3)]
    assert all(set(epoch) == {p.prompt_id for p in PROMPTS.prompts} for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_resume_is_an_index():
    whole = ids(PROMPTS.order(seed=3, shuffle=True), 0, 40)
    assert ids(PROMPTS.order(seed=3, shuffle=True), 17, 40) == whole[17:]
    order = PROMPTS.order(seed=3, shuffle=True)
    assert [order.prompt_at(i).prompt_id for i in reversed(range(40))] == whole[::-1]


def test_seeds_give_different_orders_and_file_order_needs_no_seed():
    assert ids(PROMPTS.order(seed=0, shuffle=True), 0, 21) != ids(PROMPTS.order(seed=1, shuffle=True), 0, 21)
    in_file_order = [p.prompt_id for p in PROMPTS.prompts]
    assert ids(PROMPTS.order(seed=5, shuffle=False), 0, 14) == in_file_order * 2


def test_the_order_is_the_same_on_every_machine_and_version():
    assert [int(i) for i in PROMPTS.order(seed=0, shuffle=True)._permutation(0)] == PERMUTATION_OF_SEED_0


def test_negative_numbers_and_empty_sets_are_refused():
    with pytest.raises(ValueError, match=">= 0"):
        PROMPTS.order(0, True).prompt_at(-1)
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptSet(()).order(0, True)


PERMUTATION_OF_SEED_0 = [2, 4, 3, 6, 5, 0, 1]
