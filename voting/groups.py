"""What goes into the voting library and what comes out of it: groups of texts, and votes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quorum.errors import ConfigError
from quorum.types import (
    Completion,
    EndState,
    Float32Array,
    Outcome,
    Resolution,
    Role,
    RolloutGroup,
    ScoredGroup,
    Tally,
    VersionSpan,
)
from voting.novelty import NoveltyOptions
from voting.rules import SCORED, VOTE_RULES, WeightOptions

Group = RolloutGroup | Sequence[str]
"""The completions of one prompt: as a run stores them, or their texts."""


@dataclass(frozen=True, slots=True, repr=False)
class VotedGroup:
    """One group after the vote; k completions, C different answers."""

    tally: Tally
    """Answers and clusters."""
    resolution: Resolution
    """What was decided."""
    scored: ScoredGroup | None
    """What a learner would be given; None where the group leaves the batch."""

    @property
    def group_id(self) -> int:
        return self.tally.group_id

    @property
    def answers(self) -> tuple[str | None, ...]:
        """[k] canonical answer of each completion; None abstains."""
        return self.tally.answers

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """[k] why each answer stands as it does."""
        return self.tally.outcomes

    @property
    def clusters(self) -> tuple[int, ...]:
        """[k] number of each answer's cluster; -1 abstains."""
        return self.tally.cluster

    @property
    def pseudo_label(self) -> str | None:
        """The elected answer; None when nobody was."""
        return self.resolution.pseudo_label

    @property
    def agreement(self) -> float:
        """The winner's share of the vote, in [0, 1]."""
        return self.resolution.agreement

    @property
    def margin(self) -> float:
        """The winner's share minus the runner-up's."""
        return self.resolution.margin

    @property
    def end_state(self) -> EndState | None:
        """Why the group leaves the batch; None keeps it."""
        return self.resolution.end_state

    @property
    def rewards(self) -> Float32Array:
        """[k] 0 for all where the group leaves the batch: it is paid nothing."""
        return np.zeros(len(self.answers), dtype=np.float32) if self.scored is None else self.scored.rewards

    @property
    def trained(self) -> NDArray[np.bool_]:
        """[k] which completions are trained on: none where the group leaves the batch."""
        return np.zeros(len(self.answers), dtype=np.bool_) if self.scored is None else self.scored.train_mask

    def __repr__(self) -> str:
        state = "" if self.end_state is None else f", end_state={self.end_state.value!r}"
        return (
            f"VotedGroup(pseudo_label={self.pseudo_label!r}, agreement={self.agreement:.3g}, "
            f"margin={self.margin:.3g}, answers={self.answers}, rewards={self.rewards.tolist()}{state})"
        )


def as_groups(groups: Iterable[Group]) -> list[RolloutGroup]:
    """Groups as a run has them; of texts a group is numbered by its place, and every completion ended by itself.

    Raises:
        ValueError: what is no group, by its place.
    """
    if isinstance(groups, (str, RolloutGroup)):
        raise ValueError("expected a list of groups, got one; put it into a list")
    return [
        group if isinstance(group, RolloutGroup) else group_of_texts(number, group)
        for number, group in enumerate(groups)
    ]


def group_of_texts(number: int, texts: Iterable[str], prompt_id: str | None = None) -> RolloutGroup:
    """A group of completions of which only the texts are known.

    Args:
        number: its group id.
        texts: [k]
        prompt_id: None takes the number.

    Raises:
        ValueError: a completion is not a text.
    """
    if isinstance(texts, str):
        raise ValueError(f"group {number} is one text: a group is a list of completion texts; is it vote([texts])?")
    completions = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"group {number}, completion {index}: expected a text, got {type(text).__name__}")
        completions.append(
            Completion(
                index=index,
                token_ids=np.empty(0, dtype=np.int32),
                text=text,
                rollout_logprobs=np.empty(0, dtype=np.float32),
                finish_reason="stop",
                spans=(VersionSpan(0, 0),),
            )
        )
    return RolloutGroup(
        group_id=number,
        prompt_id=str(number) if prompt_id is None else prompt_id,
        branch=0,
        role=Role.TRAIN,
        data_source="",
        prompt_token_ids=np.empty(0, dtype=np.int32),
        prompt_text="",
        completions=tuple(completions),
    )


def check_tokens(groups: Sequence[RolloutGroup], rule: str, options: Any) -> None:
    """Raise ConfigError where a rule asks for tokens or scores of completions, and the groups do not have them."""
    if not groups:
        return
    if VOTE_RULES[rule].target.needs_scores(options) and any(group.scores is None for group in groups):
        if isinstance(options, WeightOptions):
            raise ConfigError(
                f"rule {rule} with weight={options.weight} asks the learner for whole token distributions, which only "
                "a run has at hand; use weight=mean_logprob on stored groups"
            )
        raise ConfigError(
            f"rule {rule} asks the learner for the entropies of completions, which only a run has at hand; leave out "
            "what needs them (of scrl: tau_low=0)"
        )
    is_asked = isinstance(options, WeightOptions) and options.weight not in ("one", *SCORED)
    is_asked |= isinstance(options, NoveltyOptions) and options.unit == "tokens"
    if is_asked and not any(len(completion.token_ids) for group in groups for completion in group.completions):
        what = f"weight={options.weight}" if isinstance(options, WeightOptions) else "unit=tokens"
        instead = "weight=one" if isinstance(options, WeightOptions) else "unit=characters"
        raise ConfigError(
            f"rule {rule} with {what} looks at completions' tokens, and these groups are texts alone; give groups as a "
            f"run stores them, or use {instead}"
        )
