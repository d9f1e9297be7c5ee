"""The label each prompt got last, to tell whether a new one is another answer. Goes into a checkpoint as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from quorum.types import Resolution, Tally


class LabelHistory:
    """Remembers the last label of every prompt.

    A visit without a label is not remembered: the next label is compared with the last one that there was.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def visit(self, prompt_id: str, answers_of_winning_cluster: Collection[str], label: str | None) -> bool | None:
        """Take note of a prompt's label.

        Args:
            prompt_id: of the prompt.
            answers_of_winning_cluster: every text that was counted as the label; empty for a label that was revealed.
            label: the label; None when nobody was elected.

        Returns:
            Whether the label changed since the prompt last had one. It did not when the earlier label is the new one
            or among the new winner's answers. None without an earlier label, and without a label now.
        """
        if label is None:
            return None
        before = self._labels.get(prompt_id)
        self._labels[prompt_id] = label
        return None if before is None else before != label and before not in answers_of_winning_cluster

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
            self.visit(prompt_id, winning_answers(tally, resolution), resolution.pseudo_label)
            for prompt_id, tally, resolution in zip(prompt_ids, tallies, resolutions, strict=True)
        ]

    def state(self) -> dict[str, str]:
        """The last label by prompt id; standard JSON."""
        return dict(self._labels)

    @classmethod
    def from_state(cls, state: Mapping[str, str]) -> LabelHistory:
        """The history that `state` was taken of; an empty one for an empty mapping."""
        history = cls()
        history._labels.update(state)
        return history


def winning_answers(tally: Tally, resolution: Resolution) -> set[str]:
    """Every answer in the winning cluster of a group; empty when no cluster won."""
    if resolution.label_cluster < 0:
        return set()
    pairs = zip(tally.answers, tally.cluster, strict=True)
    return {answer for answer, number in pairs if number == resolution.label_cluster and answer is not None}
