"""Identities and seeds of the objects that flow: they must never change between versions."""

import dataclasses
import pickle

import numpy as np
import pytest

from quorum import types
from quorum.types import COMPLETION_INDEX_BITS, GroupKey, Role, TrainingBatch, WeightManifest, group_seed, prompt_id_of
from tests.builders import make_completion, make_group, make_prompt


def test_a_prompts_id_depends_on_source_and_row_and_nothing_else() -> None:
    assert prompt_id_of("math", "17") == "5b9d90ac484ef6eb07be57c23e842351"
    assert len({prompt_id_of("a", "bc"), prompt_id_of("ab", "c"), prompt_id_of("a", "b")}) == 3


def test_group_seeds_leave_room_for_every_completion_and_differ_by_identity() -> None:
    keys = [GroupKey(branch, role, index) for branch in (0, 1) for role in Role for index in range(200)]
    seeds = {group_seed(7, key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(seed % (1 << COMPLETION_INDEX_BITS) == 0 and 0 <= seed < 2**63 for seed in seeds)
    assert group_seed(7, keys[0]) != group_seed(8, keys[0])


def test_a_groups_content_hash_covers_tokens_logprobs_and_their_split() -> None:
    first = make_group([make_completion(0, [1, 2]), make_completion(1, [3])])
    same = make_group([make_completion(0, [1, 2]), make_completion(1, [3])])
    others = [
        make_group([make_completion(0, [1, 2]), make_completion(1, [4])]),
        make_group([make_completion(0, [1]), make_completion(1, [2, 3])]),
        make_group([make_completion(0, [1, 2]), make_completion(1, [3], logprobs=[-1.0000001])]),
    ]
    assert first.content_hash() == same.content_hash()
    assert len({first.content_hash(), *(group.content_hash() for group in others)}) == 4


def test_groups_survive_pickling_bit_for_bit() -> None:
    group = make_group([make_completion(0, [1, 2], logprobs=[-0.1, -0.2])])
    copy = pickle.loads(pickle.dumps(group))
    assert copy.content_hash() == group.content_hash() and copy.key == group.key


def test_objects_that_flow_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_prompt().text = "other"


def test_no_object_before_the_vote_can_carry_an_answer() -> None:
    for flowing in (types.Prompt, types.GroupRequest, types.RolloutGroup, types.Completion):
        names = {field.name for field in dataclasses.fields(flowing)}
        assert not names & {"answer", "label", "reference", "ground_truth", "solution"}, flowing


def test_a_batch_counts_trained_completions_and_their_tokens() -> None:
    receipt = types.ScoreReceipt(
        group_id=0,
        prompt_tokens=5,
        completion_tokens=(10, 20, 30),
        trained=(True, False, True),
        truncated=(False,) * 3,
        rewards=(1.0, 0.0, 0.0),
        reward_hash="0" * 16,
    )
    batch = TrainingBatch(step=0, branch=0, groups=(None, None), receipts=(receipt, receipt))
    assert (batch.num_completions, batch.num_tokens) == (4, 80)


def test_a_manifest_lists_tensors_in_sending_order() -> None:
    a, b, c = (types.TensorMeta(name, "float32", (2,)) for name in "abc")
    assert WeightManifest(version=1, incarnation=0, buckets=((a, b), (c,))).tensors == (a, b, c)


def test_token_ids_are_32_bit() -> None:
    assert make_completion(0, [1]).token_ids.dtype == np.int32
