"""The buffer alone owns the staleness bound: which groups may start, and which of them a step takes.

At most (max_off_policy_steps + 1) * prompts_per_step groups are in flight. A slot frees when the version trained on its
group is published, or when the group is dropped. In the order of admission a group then has its turn within
max_off_policy_steps steps, whatever comes between, and nothing is drawn in vain to keep the bound.

Where later groups may overtake, a step takes those that finished first, except that it waits for as many of the old
ones as the steps to come could no longer take in time. With all slots in use that is every one of them: fewer are used,
one less for each group that may be carried over.
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
    step: int = 0
    """Steps that were done when it was admitted: none of its tokens is older."""
    finished: int | None = None
    """How many finished before it; None while it is drawn."""
    is_given_up: bool = False
    """Whether it is quarantined: there is no group."""
    is_taken: bool = False
    age: int = 0
    """Versions that its oldest token is behind the policy it trains."""
    receipt: Receipt | None = None
    group: Any = None
    """Reference to the RolloutGroup once it is finished."""
    tally: Ticket | Tally | None = None
    """Its Tally, or the ticket for it."""


@dataclass
class Buffer:
    """Admission and batch formation.

    Args:
        prompts_per_step: groups per batch.
        max_off_policy_steps: 0 is the strict on-policy schedule.
        num_carried: groups that later ones may overtake; 0 takes all in the order of admission.
        next_group_id: lowest id that is not ended; survives resume.
        ended_ahead: ids above it that are ended; they are not admitted again.
    """

    prompts_per_step: int
    max_off_policy_steps: int = 0
    num_carried: int = 0
    next_group_id: int = 0
    ended_ahead: frozenset[int] = frozenset()
    _slots: dict[int, Slot] = field(default_factory=dict)
    """By group id, in order of admission."""
    _ended: set[int] = field(default_factory=set)
    _num_finished: int = 0

    @property
    def capacity(self) -> int:
        return (self.max_off_policy_steps + 1) * self.prompts_per_step - self.num_carried

    def num_free(self, steps_left: int) -> int:
        """Groups that may start now; towards the end of a run no more than its last steps can take."""
        return min(self.capacity, steps_left * self.prompts_per_step) - len(self._slots)

    @property
    def first_unended(self) -> int:
        """Lowest id that is not ended: where a resume goes on."""
        return min(self._slots, default=self.next_group_id)

    @property
    def ended_beyond(self) -> tuple[int, ...]:
        """Ids above `first_unended` that are ended."""
        return tuple(sorted(group_id for group_id in self._ended | self.ended_ahead if group_id > self.first_unended))

    def admit(self, branch_key: GroupKey, step: int) -> Slot:
        """Take a slot for the next group. Ids are admitted in order and each once.

        Args:
            branch_key: key with the run's branch and role; its id is replaced.
            step: steps done.
        """
        assert len(self._slots) < self.capacity, "admission beyond the staleness bound"
        while self.next_group_id in self.ended_ahead:
            self._ended.add(self.next_group_id)
            self.next_group_id += 1
        slot = Slot(branch_key._replace(group_id=self.next_group_id), step)
        self._slots[self.next_group_id] = slot
        self.next_group_id += 1
        return slot

    def note_age(self, key: GroupKey, versions: int) -> None:
        """A group that was recovered has tokens so many versions old: its turn comes as much sooner."""
        self._slots[key.group_id].step -= max(0, versions)

    def finish(self, key: GroupKey, *, is_given_up: bool = False) -> None:
        """A group is finished, or given up. It happens once."""
        slot = self._slots[key.group_id]
        assert slot.finished is None, f"group {key.group_id} finished twice"
        slot.finished, slot.is_given_up = self._num_finished, is_given_up
        self._num_finished += 1

    def owed(self, count: int, step: int) -> list[GroupKey]:
        """Groups that a step which needs `count` more still has to wait for; empty when it can take them."""
        if not self.num_carried:
            return [slot.key for slot in self.in_flight[:count] if slot.finished is None]
        chosen, late = self._choose(count, step)
        if not late and len(chosen) < min(count, len(self.in_flight)):
            late = [slot for slot in self.in_flight if slot.finished is None]
        return [slot.key for slot in late]

    def take(self, count: int, step: int) -> list[Slot]:
        """The step's next groups, in group order, every one of them finished or given up.

        Args:
            count: how many at most; fewer where no more are in flight.
            step: steps done.
        """
        assert not (late := self.owed(count, step)), f"groups {late} taken before they were finished"
        slots = self._choose(count, step)[0] if self.num_carried else self.in_flight[:count]
        for slot in slots:
            slot.is_taken = True
        return sorted(slots, key=lambda slot: slot.key)

    def _choose(self, count: int, step: int) -> tuple[list[Slot], list[Slot]]:
        """Finished groups for this step, first those that the steps to come could not take in time; and those of these
        that are not finished."""
        bound, per_step = self.max_off_policy_steps, self.prompts_per_step
        finished = sorted(
            (slot for slot in self.in_flight if slot.finished is not None), key=lambda slot: slot.finished or 0
        )
        chosen: list[Slot] = []
        for last in range(step, step + bound + 1):  # the last step that may take groups admitted up to last - bound
            old = [slot for slot in self.in_flight if slot.step + bound <= last]
            missing = len(old) - (last - step) * per_step - sum(slot.step + bound <= last for slot in chosen)
            there = [slot for slot in finished if slot.step + bound <= last and slot not in chosen]
            if missing > len(there):
                return chosen, [slot for slot in old if slot.finished is None]
            chosen += there[: max(0, missing)]
        chosen += [slot for slot in finished if slot not in chosen][: max(0, count - len(chosen))]
        return chosen, []

    def release(self, keys: Sequence[GroupKey]) -> None:
        """Free the slots of groups that were trained and published, or dropped."""
        for key in keys:
            del self._slots[key.group_id]
            self._ended.add(key.group_id)
        self._ended = {group_id for group_id in self._ended if group_id > self.first_unended}

    @property
    def in_flight(self) -> list[Slot]:
        """Slots that no step has taken."""
        return [slot for slot in self._slots.values() if not slot.is_taken]
