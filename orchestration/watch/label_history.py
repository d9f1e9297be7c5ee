"""The label each prompt got last, to tell whether a new one is another answer. Goes into a checkpoint as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quorum.types import Resolution, Tally
from voting import context
from voting.context import PromptPast, has_flipped


class LabelHistory:
    """Remembers the last label of every prompt, and where asked to, of its last visits whether the label changed.

    A visit without a label is not remembered: the next label is compared with the last one that there was.
    """

    def __init__(self, memory: int = 0) -> None:
        """Start with nothing.

        Args:
            memory: visits of each prompt to remember besides its last label.
        """
        self._memory = memory
        self._pasts: dict[str, PromptPast] = {}

    def visit(
        self, prompt_id: str, answers_of_winning_cluster: Collection[str], label: str | None, agreement: float = 0.0
    ) -> bool | None:
        """Take note of a prompt's label.

        Args:
            prompt_id: of the prompt.
            answers_of_winning_cluster: every text that was counted as the label; empty for a label that was revealed.
            label: the label; None when nobody was elected.
            agreement: of the vote.

        Returns:
            Whether the label changed since the prompt last had one. It did not when the earlier label is the new one
            or among the new winner's answers. None without an earlier label, and without a label now.
        """
        if label is None:
            return None
        past = self.past(prompt_id)
        flipped = has_flipped(label, past.label, answers_of_winning_cluster)
        made = past.with_visit(flipped, agreement) if self._memory else past
        self._pasts[prompt_id] = PromptPast(label, made.flips[-self._memory :], made.agreements[-self._memory :])
        return flipped

    def past(self, prompt_id: str) -> PromptPast:
        """What is known of a prompt; nothing before its first label."""
        return self._pasts.get(prompt_id, PromptPast())

    def visit_groups(
        self, prompt_ids: Sequence[str], tallies: Sequence[Tally], resolutions: Sequence[Resolution]
    ) -> list[bool | None]:
        """Visit a step's groups in the order given: group order.

        Args:
            prompt_ids: [P] of the groups' prompts.
            tallies: [P]
            resolutions: [P]; groups that leave the batch count too, if they have a label.

        Returns:
            [P] what `visit` says of each.
        """
        return [
            self.visit(prompt_id, winning_answers(tally, made), made.pseudo_label, made.agreement)
            for prompt_id, tally, made in zip(prompt_ids, tallies, resolutions, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """By prompt id the last label, or where visits are remembered [label, flips as 0 and 1, agreements]; JSON."""
        if not self._memory:
            return {prompt_id: past.label for prompt_id, past in self._pasts.items()}
        return {
            prompt_id: [past.label, "".join("01"[flip] for flip in past.flips), list(past.agreements)]
            for prompt_id, past in self._pasts.items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], memory: int = 0) -> LabelHistory:
        """The history that `state` was taken of; an empty one for an empty mapping.

        Args:
            state: with or without remembered visits, whatever `memory` is.
            memory: as for a new one.
        """
        history = cls(memory)
        for prompt_id, held in state.items():
            label, flips, agreements = (held, "", []) if isinstance(held, str) else held
            if not memory:
                flips, agreements = "", []
            history._pasts[prompt_id] = PromptPast(label, tuple(flip == "1" for flip in flips), tuple(agreements))
        return history


def winning_answers(tally: Tally, resolution: Resolution) -> set[str]:
    """Every answer in the winning cluster of a group; empty when no cluster won."""
    return context.winning_answers(tally.answers, tally.cluster, resolution.label_cluster)
