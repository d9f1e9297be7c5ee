"""A group crosses process borders with every bit it had."""

from __future__ import annotations

import copy
import pickle

import numpy as np

from quorum.types import RolloutGroup, VersionSpan
from tests.builders import make_completion, make_group


def test_a_pickled_group_is_the_same_bit_for_bit() -> None:
    odd = np.frombuffer(np.array([0x7FC00001, 0x80000000, 0xFF800000], dtype=np.uint32).tobytes(), dtype=np.float32)
    group = make_group(
        [
            make_completion(0, [5, 6, 7], text="a", logprobs=odd, version=3),
            make_completion(1, [], text="", finish_reason="abort"),
            make_completion(2, [9], text="\\boxed{\u00e9}", finish_reason="length"),
        ],
        group_id=7,
    )
    for again in (pickle.loads(pickle.dumps(group)), copy.deepcopy(group)):
        assert isinstance(again, RolloutGroup)
        assert again.content_hash() == group.content_hash()
        assert again.key == group.key and again.prompt_id == group.prompt_id
        assert again.prompt_token_ids.tolist() == group.prompt_token_ids.tolist()
        for one, other in zip(group.completions, again.completions, strict=True):
            assert one.rollout_logprobs.tobytes() == other.rollout_logprobs.tobytes()
            assert (one.index, one.text, one.finish_reason) == (other.index, other.text, other.finish_reason)
            assert all(isinstance(span, VersionSpan) for span in other.spans) and one.spans == other.spans
            assert (other.token_ids.dtype, other.rollout_logprobs.dtype) == (np.int32, np.float32)


def test_a_group_without_completions_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(make_group([]))).completions == ()
