"""Small builders of the objects that flow, for tests. Token ids and rewards are given; the rest has defaults."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quorum.types import (
    Completion,
    Outcome,
    Prompt,
    Role,
    RolloutGroup,
    ScoredGroup,
    ScoreReceipt,
    Tally,
    VersionSpan,
    prompt_id_of,
)
from voting.rewards import receipt_of


def make_prompt(index: int = 0, token_ids: Sequence[int] = (3, 4, 5), *, data_source: str = "unit") -> Prompt:
    """A plain-text prompt whose text is its token ids."""
    return Prompt(
        prompt_id=prompt_id_of(data_source, str(index)),
        data_source=data_source,
        token_ids=np.asarray(token_ids, dtype=np.int32),
        text=" ".join(map(str, token_ids)),
    )


def make_completion(
    index: int,
    token_ids: Sequence[int],
    *,
    text: str | None = None,
    logprobs: Sequence[float] | None = None,
    finish_reason: str = "stop",
    version: int = 0,
) -> Completion:
    """A completion; without `logprobs` every token has log-probability -1."""
    return Completion(
        index=index,
        token_ids=np.asarray(token_ids, dtype=np.int32),
        text=" ".join(map(str, token_ids)) if text is None else text,
        rollout_logprobs=np.asarray(logprobs if logprobs is not None else [-1.0] * len(token_ids), dtype=np.float32),
        finish_reason=finish_reason,
        spans=(VersionSpan(version, 0),),
    )


def make_group(
    completions: Sequence[Sequence[int] | Completion],
    *,
    group_id: int = 0,
    prompt: Prompt | None = None,
    texts: Sequence[str] | None = None,
    role: Role = Role.TRAIN,
    branch: int = 0,
) -> RolloutGroup:
    """A rollout group of k completions, given as token ids or as made by `make_completion`."""
    prompt = prompt or make_prompt(group_id)
    made = [
        c if isinstance(c, Completion) else make_completion(i, c, text=texts[i] if texts else None)
        for i, c in enumerate(completions)
    ]
    return RolloutGroup(
        group_id=group_id,
        prompt_id=prompt.prompt_id,
        branch=branch,
        role=role,
        data_source=prompt.data_source,
        prompt_token_ids=prompt.token_ids,
        prompt_text=prompt.text,
        completions=tuple(made),
    )


def make_scored(
    group: RolloutGroup,
    rewards: Sequence[float],
    *,
    train_mask: Sequence[bool] | None = None,
    kl_mask: bool = True,
) -> ScoredGroup:
    """A scored group; reward 1 means agreement with the pseudo-label "1". Trains on all by default."""
    k = len(group.completions)
    answers = tuple("1" if reward > 0 else "0" for reward in rewards)
    names = tuple(dict.fromkeys(answers))
    sizes = tuple(answers.count(name) for name in names)
    agreement = answers.count("1") / k
    return ScoredGroup(
        group=group,
        tally=Tally(
            group_id=group.group_id,
            answers=answers,
            outcomes=(Outcome.ANSWERED,) * k,
            cluster=tuple(names.index(answer) for answer in answers),
            sizes=sizes,
            representatives=names,
        ),
        pseudo_label="1",
        provenance="majority",
        agreement=agreement,
        margin=2 * agreement - 1,
        rewards=np.asarray(rewards, dtype=np.float32),
        train_mask=np.ones(k, dtype=bool) if train_mask is None else np.asarray(train_mask, dtype=bool),
        kl_mask=kl_mask,
    )


def make_receipt(scored: ScoredGroup) -> ScoreReceipt:
    """The receipt a voter returns beside `scored`."""
    return receipt_of(scored)
