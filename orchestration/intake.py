"""Which groups are drawn, how far ahead of the learner, and which of them a step takes.

In the strict schedule a step's groups start when it does; with max_off_policy_steps they start as soon as the buffer
has room, while the learner still works on earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from configs.schema import RunConfig
from data.prompts import PromptOrder
from orchestration.buffer import Buffer, Slot
from orchestration.checkpoint import LoopState
from orchestration.labels import Teacher
from orchestration.rollout_phase import RecoveredGroup, RolloutPhase, train_key, train_sampling
from orchestration.weight_sync import NoTransfer, WeightSync
from quorum.errors import RolloutError, StageError
from quorum.types import GroupKey, GroupRequest, Role
from voting.subset import vote_only_indices


@dataclass
class Intake:
    """Admits groups, and hands a step's over when they are there.

    consumes: prompts by admission number, free slots.  waits for: the groups that the next step takes.
    unblocked by: samplers; weight sync, which frees slots.  produces: slots with finished groups and tally tickets.
    """

    config: RunConfig
    rollout: RolloutPhase
    order: PromptOrder
    sync: WeightSync | NoTransfer
    branch: int
    buffer: Buffer
    recovered: MutableMapping[GroupKey, RecoveredGroup]
    """Groups an earlier incarnation finished; all of them, in a run without samplers."""
    teacher: Teacher | None = None
    teacher_sync: WeightSync | None = None
    teacher_groups: dict[GroupKey, Any] = field(default_factory=dict)
    """References of those that the step's groups were judged by, until it is closed."""
    _open: dict[GroupKey, set[GroupKey]] = field(default_factory=dict)
    """By training group: what is not there yet of it and its teacher's."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        rollout: RolloutPhase,
        order: PromptOrder,
        sync: WeightSync | NoTransfer,
        state: LoopState,
        recovered: MutableMapping[GroupKey, RecoveredGroup],
        teacher: Teacher | None,
        teacher_sync: WeightSync | None,
    ) -> Intake:
        """The intake of a run that goes on from `state`."""
        section = config.rollout
        buffer = Buffer(
            section.prompts_per_step,
            section.max_off_policy_steps,
            section.carried_groups,
            state.next_group_id,
            frozenset(state.ended_ahead),
        )
        intake = cls(config, rollout, order, sync, state.branch, buffer, recovered, teacher, teacher_sync)
        rollout.on_finished = intake._is_there
        return intake

    @property
    def is_ahead(self) -> bool:
        """Whether groups of later steps are drawn while the learner works."""
        return self.buffer.max_off_policy_steps > 0

    def admit(self, step: int) -> None:
        """Start as many groups as the buffer has room for.

        Args:
            step: steps done.
        """
        free = self.buffer.num_free(self.config.run.num_steps - step)
        ahead = len(self.buffer.in_flight)
        requests = [request for _ in range(max(0, free)) for request in self._next_requests(step)]
        # Whichever step takes a group, it is not a later one than the log is told: a resume looks from its step on.
        label = step + self.buffer.max_off_policy_steps
        taken = self.rollout.submit(requests, label, self.recovered, self._oldest(requests, ahead))
        for key, receipt in taken.items():
            if key.role is Role.TRAIN:
                self.buffer.note_age(key, self.sync.version - min(receipt.versions, default=self.sync.version))
        for request in requests:
            self.recovered.pop(request.key, None)

    def next_slots(self, count: int, step: int, on_finished: Callable[[int], None]) -> list[Slot]:
        """Groups for a step, in group order: finished, or given up.

        Args:
            count: groups that the step lacks.
            step: steps done.
            on_finished: called with the number of groups that are still owed.

        Raises:
            RolloutError, StorageError, VotingError: see `RolloutPhase.wait`.
        """
        self.admit(step)
        num_owed = -1

        def owed() -> list[GroupKey]:
            nonlocal num_owed
            keys = self.buffer.owed(count, step)
            if len(keys) != num_owed:
                num_owed = len(keys)
                on_finished(num_owed)
            return keys

        self.rollout.wait(owed)
        slots = self.buffer.take(count, step)
        self._fill(slots)
        return slots

    def meanwhile(self, seconds: float) -> None:
        """Move rollout on while somebody else is waited for. Too few samplers are told of at the next wait."""
        try:
            self.rollout.pump(seconds)
        except RolloutError:  # the pool says it again
            return

    def _oldest(self, requests: list[GroupRequest], ahead: int) -> dict[GroupKey, int]:
        """Oldest version that the tokens of each group may have, by the step that has to take it; `ahead` groups come
        before the first. A run that only learns takes what there is."""
        if self.config.run.mode == "train_only":
            return {}
        keys = [request.key for request in requests if request.key.role is Role.TRAIN]
        bound, per_step = self.buffer.max_off_policy_steps, self.buffer.prompts_per_step
        return {key: self.sync.version + (ahead + i) // per_step - bound for i, key in enumerate(keys)}

    def _next_requests(self, step: int) -> list[GroupRequest]:
        slot = self.buffer.admit(train_key(self.branch, 0), step)
        prompt, version = self.order.prompt_at(slot.key.group_id), self.sync.version
        requests = [self._stoppable(self.rollout.request(slot.key, prompt, train_sampling(self.config), version))]
        if self.teacher is not None and (asked := self.teacher.prompt_for(prompt)) is not None:
            judge = slot.key._replace(role=Role.TEACHER)
            held = self.teacher_sync.version if self.teacher_sync is not None else 0
            requests.append(self.rollout.request(judge, asked, self.teacher.sampling, held))
        self._open[slot.key] = {request.key for request in requests}
        return [replace(request, allows_newer=self.is_ahead) for request in requests]

    def _stoppable(self, request: GroupRequest) -> GroupRequest:
        """With completions that may stop once the vote is decided, where the configuration wants that."""
        if not self.config.rollout.stop_decided:
            return request
        k = request.sampling.num_completions
        vote_only = vote_only_indices(request.key.group_id, k, self.config.voting.train)
        return replace(request, vote_only=vote_only, voter=self.rollout.voter())

    def _is_there(self, key: GroupKey) -> None:
        group = key._replace(role=Role.TRAIN)
        missing = self._open.get(group)
        if key.role not in (Role.TRAIN, Role.TEACHER) or missing is None:
            return
        missing.discard(key)
        if not missing:
            del self._open[group]
            self.buffer.finish(group, is_given_up=self.rollout.is_given_up(group))

    def _fill(self, slots: list[Slot]) -> None:
        """Put the groups into their slots, and see that none is older than the bound."""
        keys = [slot.key for slot in slots]
        judges = [key._replace(role=Role.TEACHER) for key in keys] if self.teacher is not None else []
        finished = self.rollout.collect(keys + [key for key in judges if self.rollout.is_finished(key)])
        for slot in slots:
            if not slot.is_given_up:
                done = finished[slot.key]
                slot.receipt, slot.group, slot.tally = done.receipt, done.group, done.tally
                self._check_age(slot)
        self.teacher_groups |= {key: done.group for key, done in finished.items() if key.role is Role.TEACHER}

    def _check_age(self, slot: Slot) -> None:
        assert slot.receipt is not None
        slot.age = max(0, self.sync.version - min(slot.receipt.versions, default=self.sync.version))
        if slot.age > self.buffer.max_off_policy_steps and self.config.run.mode != "train_only":
            raise StageError(
                f"group {slot.key.group_id} has tokens {slot.age} versions old, rollout.max_off_policy_steps is "
                f"{self.buffer.max_off_policy_steps}: the buffer's bound was broken; report this"
            )
