"""Groups as few large arrays instead of many small ones, for their way between processes.

A group of k completions has 2 k arrays, and each costs more to pickle than its numbers do. Bits are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quorum.types import Completion, Float32Array, Int32Array, RolloutGroup, VersionSpan

_HEAD = tuple(name for name in RolloutGroup.__dataclass_fields__ if name != "completions")


def packed(group: RolloutGroup) -> tuple[Any, ...]:
    """What `RolloutGroup.__reduce__` returns."""
    head = {name: getattr(group, name) for name in _HEAD}
    return _unpacked, (head, *_packed_completions(group.completions))


def _packed_completions(completions: Sequence[Completion]) -> tuple[Any, ...]:
    """(scalars of each completion, tokens and logprobs of all of them, one after the other)."""
    scalars = [
        (c.index, c.text, c.finish_reason, [tuple(span) for span in c.spans], len(c.token_ids), len(c.rollout_logprobs))
        for c in completions
    ]
    if not completions:
        return scalars, np.zeros(0, np.int32), np.zeros(0, np.float32)
    tokens = np.concatenate([np.asarray(c.token_ids, np.int32) for c in completions])
    return scalars, tokens, np.concatenate([np.asarray(c.rollout_logprobs, np.float32) for c in completions])


def _unpacked(
    head: Mapping[str, Any], scalars: Sequence[Any], token_ids: Int32Array, logprobs: Float32Array
) -> RolloutGroup:
    completions = []
    token = value = 0
    for index, text, finish_reason, spans, num_tokens, num_logprobs in scalars:
        completions.append(
            Completion(
                index=index,
                token_ids=token_ids[token : token + num_tokens],
                text=text,
                rollout_logprobs=logprobs[value : value + num_logprobs],
                finish_reason=finish_reason,
                spans=tuple(VersionSpan(*span) for span in spans),
            )
        )
        token, value = token + num_tokens, value + num_logprobs
    return RolloutGroup(completions=tuple(completions), **head)
