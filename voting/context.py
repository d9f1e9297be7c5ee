"""What a vote may know beyond the step's answers: the step itself, and the past of each group's prompt. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptPast:
    """What is known of a prompt before this step's vote."""

    label: str | None = None
    """The last label it had; None before its first."""
    flips: tuple[bool, ...] = ()
    """Whether its label changed, visit by visit, oldest first; a visit without a label is none."""
    agreements: tuple[float, ...] = ()
    """Agreement at the same visits, and at its first one before them where that is remembered."""
    base_agreement: float | None = None
    """In the table of labels that `voting.prompts.table` names; None where that has none."""

    def with_visit(self, has_flipped: bool | None, agreement: float) -> PromptPast:
        """The past as this visit leaves it, but for the label."""
        flips = self.flips if has_flipped is None else (*self.flips, has_flipped)
        return PromptPast(self.label, flips, (*self.agreements, agreement), self.base_agreement)

    def flip_rate(self, window: int) -> float:
        """Share of the last `window` visits whose label was another than before; 0 before the second visit.

        Example:
            >>> PromptPast(flips=(True, True, False, False)).flip_rate(3)
            0.3333333333333333
        """
        recent = self.flips[-window:]
        return sum(recent) / len(recent) if recent else 0.0


@dataclass(frozen=True, slots=True)
class StepContext:
    """What is handed to `resolve` beside the tallies."""

    step: int = 0
    """Steps done before this one: schedules go by it."""
    pasts: Sequence[PromptPast] = ()
    """[P] of each group's prompt; empty: nothing is known of any."""

    def past(self, position: int) -> PromptPast:
        """Of the group at a position."""
        return self.pasts[position] if self.pasts else _UNKNOWN


_UNKNOWN = PromptPast()
NO_CONTEXT = StepContext()
"""The first step, nothing known of any prompt."""


def has_flipped(label: str, before: str | None, answers_of_winning_cluster: Sequence[str] | set[str]) -> bool | None:
    """Whether a label is another answer than the one before; None without one before.

    Args:
        label: now.
        before: the last one.
        answers_of_winning_cluster: every text that counts as the label now: an earlier spelling is no flip.
    """
    return None if before is None else before != label and before not in answers_of_winning_cluster


def winning_answers(answers: Sequence[str | None], cluster: Sequence[int], winner: int) -> set[str]:
    """Every answer in the winning cluster of a group; empty when no cluster won.

    Example:
        >>> sorted(winning_answers(["1/2", "0.5", None, "3"], [0, 0, -1, 1], 0))
        ['0.5', '1/2']
    """
    if winner < 0:
        return set()
    return {answer for answer, number in zip(answers, cluster, strict=True) if number == winner and answer is not None}
