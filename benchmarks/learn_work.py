"""What `quorum bench learn` trains on: prompts, completions and rewards made from a seed, the same on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quorum.types import Completion, Outcome, Role, RolloutGroup, ScoredGroup, Tally, TrainingBatch, VersionSpan
from voting.rewards import receipt_of

PROMPT_TOKENS = 12
MAX_COMPLETION_TOKENS = 192
END_PROBABILITY = 0.0115
"""Of the end of text after each token: completions then have 77 tokens in the mean, when cut at 192."""
SHORT = (4, 30)
"""Fewest and most tokens of short completions, all numbers between equally likely."""
FIRST_TOKEN, NUM_TOKENS = 3, 61


@dataclass(frozen=True, slots=True)
class Work:
    """One step's groups, described so that a child process can make them itself."""

    kind: str
    """spread: many short and some long completions, cut at 192 tokens; short: 4 to 30 tokens."""
    prompts: int
    k: int
    seed: int

    def lengths(self) -> list[list[int]]:
        """[P][k] completion tokens."""
        rng = np.random.default_rng(self.seed)
        shape = (self.prompts, self.k)
        if self.kind == "spread":
            return np.minimum(rng.geometric(END_PROBABILITY, shape), MAX_COMPLETION_TOKENS).tolist()
        return rng.integers(SHORT[0], SHORT[1] + 1, shape).tolist()

    def batch(self) -> TrainingBatch:
        """Groups with random tokens and rewards of 0 and 1."""
        rng = np.random.default_rng(self.seed + 1)
        groups = tuple(_scored(i, lengths, rng) for i, lengths in enumerate(self.lengths()))
        return TrainingBatch(step=0, branch=0, groups=groups, receipts=tuple(map(receipt_of, groups)))

    def num_tokens(self) -> int:
        """Prompt and completion tokens: what one step computes on at least where prompts are not shared."""
        return sum(PROMPT_TOKENS + tokens for lengths in self.lengths() for tokens in lengths)

    def padded_share(self) -> float:
        """Share of padding when all sequences are padded to the longest, as one batch."""
        longest = max(max(lengths) for lengths in self.lengths()) + PROMPT_TOKENS
        return 1 - self.num_tokens() / (self.prompts * self.k * longest)


def bound_seconds(num_parameters: int, num_tokens: int, flops: float) -> float:
    """6 operations per parameter and token (2 forward, 4 backward) at the rate of the machine's matrix products."""
    return 6 * num_parameters * num_tokens / flops


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """[k] RLOO advantages (arXiv 2402.14740), for the side that is handed them: reward minus the others' mean."""
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


def _scored(group_id: int, lengths: list[int], rng: np.random.Generator) -> ScoredGroup:
    def tokens(count: int) -> np.ndarray:
        return rng.integers(FIRST_TOKEN, FIRST_TOKEN + NUM_TOKENS, count).astype(np.int32)

    rewards = rng.integers(0, 2, len(lengths)).astype(np.float32)
    answers = tuple(str(int(reward)) for reward in rewards)
    names = tuple(dict.fromkeys(answers))
    group = RolloutGroup(
        group_id=group_id,
        prompt_id=f"{group_id:032x}",
        branch=0,
        role=Role.TRAIN,
        data_source="bench",
        prompt_token_ids=tokens(PROMPT_TOKENS),
        prompt_text="",
        completions=tuple(
            Completion(
                index=i,
                token_ids=tokens(count),
                text="",
                rollout_logprobs=np.full(count, -4.0, np.float32),
                finish_reason="stop",
                spans=(VersionSpan(0, 0),),
            )
            for i, count in enumerate(lengths)
        ),
    )
    tally = Tally(
        group_id=group_id,
        answers=answers,
        outcomes=(Outcome.ANSWERED,) * len(lengths),
        cluster=tuple(names.index(answer) for answer in answers),
        sizes=tuple(answers.count(name) for name in names),
        representatives=names,
    )
    return ScoredGroup(
        group=group,
        tally=tally,
        pseudo_label="1",
        provenance="majority",
        agreement=0.5,
        margin=0.0,
        rewards=rewards,
        train_mask=np.ones(len(lengths), dtype=bool),
        kl_mask=True,
    )
