"""A group whose completions were shared out among samplers becomes one group again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from quorum.types import Receipt, RolloutGroup


def join_parts(parts: Sequence[RolloutGroup], num_completions: int | None = None) -> RolloutGroup:
    """One group of all completions of its parts, as if one sampler had drawn it.

    Args:
        parts: of one group, in any order.
        num_completions: that the group has; None takes what the parts hold together.

    Returns:
        The group, completions in index order; `attempts` is the highest of the parts.

    Raises:
        ValueError: the parts are not of one group and prompt, or completions are missing or there twice.
    """
    if not parts:
        raise ValueError("a group cannot be joined of no parts")
    first = parts[0]
    for part in parts:
        if (part.key, part.prompt_id) != (first.key, first.prompt_id):
            raise ValueError(
                f"parts of different groups cannot be joined: {tuple(first.key)} of prompt {first.prompt_id} and "
                f"{tuple(part.key)} of prompt {part.prompt_id}"
            )
    completions = sorted((c for part in parts for c in part.completions), key=lambda completion: completion.index)
    wanted = len(completions) if num_completions is None else num_completions
    if [completion.index for completion in completions] != list(range(wanted)):
        counts = Counter(completion.index for completion in completions)
        twice = sorted(index for index, count in counts.items() if count > 1)
        missing = sorted(set(range(wanted)) - set(counts))
        raise ValueError(
            f"group {first.group_id}: {len(parts)} parts do not make its {wanted} completions: missing {missing}, "
            f"twice {twice}, got {sorted(counts)}; each sampler must draw the indices that its request names"
        )
    return replace(first, completions=tuple(completions), attempts=max(part.attempts for part in parts))


def join_receipts(receipts: Sequence[Receipt], group: RolloutGroup) -> Receipt:
    """The receipt of a group that was drawn in parts.

    Args:
        receipts: of the parts.
        group: what `join_parts` made of them.

    Returns:
        Tokens and finish reasons of all; the prompt is counted once, and computed as often as it was; the seconds of
        the slowest part; `sampler_id` names all of them.
    """
    return Receipt.of(
        group,
        sampler_id="+".join(sorted({receipt.sampler_id for receipt in receipts})),
        num_prefilled_tokens=sum(receipt.num_prefilled_tokens for receipt in receipts),
        seconds=max(receipt.seconds for receipt in receipts),
    )


class Joiner:
    """A Ray actor that joins groups, so that the driver never holds their tokens. Remembers nothing.

    Start it with num_cpus=0, and call `join` with num_returns=2.
    """

    def join(
        self, receipts: Sequence[Receipt], *parts: RolloutGroup, num_completions: int | None = None
    ) -> tuple[Receipt, RolloutGroup]:
        """Join the parts of one group.

        Args:
            receipts: of the parts.
            parts: references to them, each an argument of its own.
            num_completions: that the group has.

        Raises:
            ValueError: see `join_parts`.
        """
        group = join_parts(parts, num_completions)
        return join_receipts(receipts, group), group
