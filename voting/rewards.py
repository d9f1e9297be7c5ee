"""Third phase of a vote: agreement with the elected answer becomes reward. Pure."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from configs.schema import VotingSection
from quorum.types import Float32Array, Outcome, Resolution, RolloutGroup, ScoredGroup, ScoreReceipt, Tally
from voting.asking import Steps
from voting.resolve import ballots_of
from voting.rules import make_rule, with_minority
from voting.sources import make_source
from voting.subset import choose_trained


def reward(group: RolloutGroup, tally: Tally, resolution: Resolution, section: VotingSection) -> Steps[ScoredGroup]:
    """Pay each completion of a group by its vote.

    Args:
        group: k completions.
        tally: of this group.
        resolution: of this group.
        section: source, rule, and which completions are trained on.

    Returns:
        The scored group. Where nothing is paid the rewards are 0 and the KL penalty does not apply. A completion that
        was stopped earns 0 and is not trained on.

    Raises:
        ValueError: group, tally and resolution are not of one group.
        ConfigError: unknown rule or source, or wrong options.
    """
    ids = (group.group_id, tally.group_id, resolution.group_id)
    k = len(group.completions)
    if len(set(ids)) != 1 or len(tally.answers) != k:
        raise ValueError(
            f"group, tally and resolution must be of one group, got ids {ids} and {k} completions with "
            f"{len(tally.answers)} answers"
        )
    rule, options = make_rule(section.rule)
    rewards, num_unjudged = np.zeros(k, dtype=np.float32), 0
    if resolution.is_paid and rule.judge is not None:
        judged = yield from rule.judge(group, tally, resolution, options)
        rewards, num_unjudged = judged.rewards, judged.num_late
    elif resolution.is_paid and rule.pay is not None:
        ballots = ballots_of(tally, make_source(section.labels)[0])
        rewards = rule.pay(tally, resolution, ballots, options)
        if rule.refine is not None:
            rewards = rule.refine(group, tally, resolution, rewards, options)
    rewards = with_minority(rewards, tally, resolution)
    stopped = np.asarray([outcome is Outcome.STOPPED for outcome in tally.outcomes], dtype=np.bool_)
    train_mask = choose_trained(tally, section.train)
    assert not (train_mask & stopped).any(), f"group {group.group_id}: a completion that was stopped is trained on"
    return ScoredGroup(
        group=group,
        tally=tally,
        pseudo_label=resolution.pseudo_label,
        provenance=resolution.provenance,
        agreement=resolution.agreement,
        margin=resolution.margin,
        rewards=np.where(stopped, np.float32(0), rewards.astype(np.float32)),
        train_mask=train_mask,
        kl_mask=resolution.is_paid,
        num_unjudged=num_unjudged,
        weight=resolution.weight,
        penalty=resolution.penalty,
    )


def receipt_of(scored: ScoredGroup) -> ScoreReceipt:
    """What the driver learns of a scored group: scalars only."""
    return ScoreReceipt(
        group_id=scored.group.group_id,
        prompt_tokens=len(scored.group.prompt_token_ids),
        completion_tokens=tuple(len(completion.token_ids) for completion in scored.group.completions),
        trained=tuple(bool(used) for used in scored.train_mask),
        truncated=tuple(completion.finish_reason == "length" for completion in scored.group.completions),
        rewards=tuple(map(float, scored.rewards)),
        reward_hash=reward_hash(scored.rewards, scored.train_mask, scored.weight, scored.penalty),
        kl_mask=scored.kl_mask,
        num_unjudged=scored.num_unjudged,
        weight=scored.weight,
        penalty=scored.penalty,
    )


def reward_hash(rewards: Float32Array, train_mask: NDArray[np.bool_], weight: float = 1.0, penalty: float = 0.0) -> str:
    """blake2b-64 of the rewards' float32 bytes, the mask's bytes, and weight and penalty unless they are 1 and 0, as 16
    hex digits.

    Example:
        >>> len(reward_hash(np.zeros(4, np.float32), np.ones(4, np.bool_)))
        16
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(np.ascontiguousarray(rewards, dtype="<f4").tobytes())
    digest.update(np.ascontiguousarray(train_mask, dtype=np.bool_).tobytes())
    if (weight, penalty) != (1.0, 0.0):
        digest.update(np.array([weight, penalty], dtype="<f8").tobytes())
    return digest.hexdigest()
