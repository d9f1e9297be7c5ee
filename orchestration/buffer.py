"""The buffer alone owns the staleness bound: which groups may start, and when a batch may be trained.

At most (max_off_policy_steps + 1) * prompts_per_step groups are in flight, first in first out. A slot frees
when the version trained on its group is published, or when the group is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quorum.types import GroupKey, Receipt, Tally
from voting.replicas import Ticket


@dataclass(slots=True)
class Slot:
    """One admitted group on its way from prompt to gradient."""

    key: GroupKey
    receipt: Receipt | None = None
    group: Any = None
    """Reference to the RolloutGroup once it is finished."""
    tally: Ticket | Tally | None = None
    """Its Tally, or the ticket for it."""


@dataclass
class Buffer:
    """Admission and batch formation in group order.

    Args:
        prompts_per_step: groups per batch.
        max_off_policy_steps: 0 is the strict on-policy schedule.
        next_group_id: id of the next admitted group; survives resume.
    """

    prompts_per_step: int
    max_off_policy_steps: int = 0
    next_group_id: int = 0
    _slots: dict[GroupKey, Slot] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        return (self.max_off_policy_steps + 1) * self.prompts_per_step

    @property
    def num_free(self) -> int:
        return self.capacity - len(self._slots)

    def admit(self, key: GroupKey) -> None:
        """Take a slot for the next group. Ids are admitted in order and each once."""
        assert self.num_free > 0, "admission beyond the staleness bound"
        assert key.group_id == self.next_group_id, f"group {key.group_id} admitted, {self.next_group_id} is next"
        self._slots[key] = Slot(key)
        self.next_group_id += 1

    def finish(self, key: GroupKey, receipt: Receipt, group: Any, tally: Ticket | Tally | None) -> None:
        """Record a finished group. A group finishes once."""
        slot = self._slots[key]
        assert slot.receipt is None, f"group {key.group_id} finished twice"
        slot.receipt, slot.group, slot.tally = receipt, group, tally

    def take(self, keys: Sequence[GroupKey]) -> list[Slot]:
        """Slots of admitted groups in group order, every one of them finished."""
        slots = [self._slots[key] for key in sorted(keys)]
        late = [slot.key.group_id for slot in slots if slot.receipt is None]
        assert not late, f"groups {late} taken before they were finished"
        return slots

    def release(self, keys: Sequence[GroupKey]) -> None:
        """Free the slots of groups that were trained and published, or dropped."""
        for key in keys:
            del self._slots[key]
