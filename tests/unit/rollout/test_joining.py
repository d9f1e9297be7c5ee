"""Groups that were drawn in parts become what one sampler would have drawn."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from quorum.types import Receipt, RolloutGroup
from rollout.joining import Joiner, join_parts
from tests.builders import make_completion, make_group


def _whole(k: int = 6) -> RolloutGroup:
    return make_group([make_completion(i, range(i + 1), logprobs=[-0.1 * i] * (i + 1)) for i in range(k)], group_id=4)


def _part(group: RolloutGroup, *indices: int, attempts: int = 1) -> RolloutGroup:
    return replace(group, completions=tuple(group.completions[i] for i in indices), attempts=attempts)


def _receipt(group: RolloutGroup, sampler: str, seconds: float) -> Receipt:
    return Receipt.of(group, sampler_id=sampler, num_prefilled_tokens=3, seconds=seconds)


def test_the_joined_group_is_the_one_that_was_split_whatever_the_order_of_parts_and_completions() -> None:
    whole = _whole()
    for seed in range(20):
        shuffled = random.Random(seed).sample(range(6), 6)
        parts = [_part(whole, *shuffled[:2]), _part(whole, *shuffled[2:3]), _part(whole, *shuffled[3:])]
        joined = join_parts(parts, num_completions=6)
        assert joined.content_hash() == whole.content_hash()
        assert [completion.index for completion in joined.completions] == list(range(6))
        assert (joined.key, joined.prompt_id, joined.attempts) == (whole.key, whole.prompt_id, 1)


def test_completions_that_are_missing_or_there_twice_are_named() -> None:
    whole = _whole()
    with pytest.raises(ValueError, match=r"group 4: .*missing \[2\], twice \[\]"):
        join_parts([_part(whole, 0, 1), _part(whole, 3, 4, 5)], num_completions=6)
    with pytest.raises(ValueError, match=r"missing \[5\], twice \[1\]"):
        join_parts([_part(whole, 0, 1), _part(whole, 1, 2, 3, 4)])
    with pytest.raises(ValueError, match=r"missing \[4, 5\]"):
        join_parts([_part(whole, 0, 1), _part(whole, 2, 3)], num_completions=6)
    with pytest.raises(ValueError, match=r"missing \[\], twice \[\], got \[0, 1, 2, 3\]"):
        join_parts([_part(whole, 0, 1), _part(whole, 2, 3)], num_completions=3)
    with pytest.raises(ValueError, match="no parts"):
        join_parts([])


def test_parts_of_different_groups_are_not_joined() -> None:
    whole = _whole()
    for other in (replace(whole, group_id=5), replace(whole, branch=1), replace(whole, prompt_id="p")):
        with pytest.raises(ValueError, match="different groups"):
            join_parts([_part(whole, 0, 1, 2), _part(other, 3, 4, 5)])


def test_the_receipt_is_of_the_whole_group() -> None:
    whole = _whole()
    parts = (_part(whole, 0, 1, 2), _part(whole, 3, 4, 5, attempts=2))
    receipts = [_receipt(parts[0], "s1", 2.0), _receipt(parts[1], "s0", 3.0)]
    receipt, group = Joiner().join(receipts, *parts, num_completions=6)
    alone = _receipt(whole, "s0+s1", 3.0)
    assert receipt == replace(alone, num_prefilled_tokens=6)
    assert (group.content_hash(), group.attempts) == (receipt.content_hash, 2)
