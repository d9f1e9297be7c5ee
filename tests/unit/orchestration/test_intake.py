"""Which groups are drawn when: strict in turn, ahead up to the bound, and never beyond the run's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.buffer import Buffer
from orchestration.intake import Intake
from orchestration.registries import load_run_config
from orchestration.rollout_phase import Finished
from quorum.errors import RolloutError, StageError
from quorum.types import GroupKey, GroupRequest, Receipt, Role
from tests.builders import make_completion, make_group, make_prompt


class Rollout:
    """Stands for the phase: groups finish in the order of `turns`, or are given up."""

    def __init__(self) -> None:
        self.submitted: list[tuple[GroupRequest, int]] = []
        self.given_up: set[GroupKey] = set()
        self.done: set[GroupKey] = set()
        self.on_finished: Callable[[GroupKey], None] = lambda key: None
        self.versions: dict[int, int] = {}
        self.oldest: dict[int, int] = {}

    def request(self, key: GroupKey, prompt: Any, sampling: Any, version: int) -> GroupRequest:
        return GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=0, required_version=version)

    def submit(
        self, requests: Sequence[GroupRequest], step: int, recovered: Any = None, oldest: Any = None
    ) -> dict[GroupKey, Receipt]:
        self.submitted += [(request, step) for request in requests]
        self.oldest.update({key.group_id: version for key, version in oldest.items()})
        return {}

    def wait(self, owed: Callable[[], Sequence[GroupKey]]) -> None:
        while keys := owed():
            self.finish(keys[-1])

    def finish(self, key: GroupKey) -> None:
        self.done.add(key)
        self.on_finished(key)

    def is_finished(self, key: GroupKey) -> bool:
        return key in self.done

    def is_given_up(self, key: GroupKey) -> bool:
        return key in self.given_up

    def collect(self, keys: Sequence[GroupKey]) -> dict[GroupKey, Finished]:
        return {
            key: Finished(self._receipt(key), f"group {key.group_id}", None) for key in keys if key not in self.given_up
        }

    def _receipt(self, key: GroupKey) -> Receipt:
        made = make_completion(0, [3, 1], version=self.versions.get(key.group_id, 0))
        group = make_group([made], group_id=key.group_id)
        return Receipt.of(group, sampler_id="s", num_prefilled_tokens=1, seconds=0.0)

    def pump(self, seconds: float) -> None:
        raise RolloutError("too few samplers are left")


def make_intake(bound: int, steps: int = 9, version: int = 0) -> tuple[Intake, Rollout]:
    words = (f"run.num_steps={steps}", "rollout.prompts_per_step=2", f"rollout.max_off_policy_steps={bound}")
    config = load_run_config("demo", [*words, "learner.importance.mode=truncate"])
    rollout: Any = Rollout()
    order: Any = SimpleNamespace(prompt_at=lambda group_id: make_prompt(group_id))
    sync: Any = SimpleNamespace(version=version)
    intake = Intake(config, rollout, order, sync, 0, Buffer(2, bound), {})
    rollout.on_finished = intake._is_there
    return intake, rollout


def ids(rollout: Rollout) -> list[int]:
    return [request.key.group_id for request, _ in rollout.submitted]


def test_the_strict_schedule_starts_a_steps_groups_with_the_step() -> None:
    intake, rollout = make_intake(bound=0)
    slots = intake.next_slots(2, 0, lambda owed: None)
    assert ids(rollout) == [0, 1] == [slot.key.group_id for slot in slots]
    assert not any(request.allows_newer for request, _ in rollout.submitted)
    intake.admit(0)
    assert ids(rollout) == [0, 1]
    intake.buffer.release([slot.key for slot in slots])
    intake.admit(1)
    assert ids(rollout) == [0, 1, 2, 3]


def test_ahead_of_the_learner_as_many_steps_are_drawn_as_the_bound_allows() -> None:
    intake, rollout = make_intake(bound=2)
    slots = intake.next_slots(2, 0, lambda owed: None)
    assert ids(rollout) == [0, 1, 2, 3, 4, 5]
    assert [slot.key.group_id for slot in slots] == [0, 1]
    assert all(request.allows_newer for request, _ in rollout.submitted)
    assert {step for _, step in rollout.submitted} == {2}, "the log is told the last step that may take them"


def test_nothing_is_drawn_that_no_step_will_take() -> None:
    intake, rollout = make_intake(bound=2, steps=2)
    intake.admit(0)
    assert ids(rollout) == [0, 1, 2, 3]


def test_a_slot_waits_for_its_teacher_too() -> None:
    intake, rollout = make_intake(bound=0)
    sampling: Any = SimpleNamespace(num_completions=2)
    intake.teacher = SimpleNamespace(prompt_for=lambda prompt: prompt, sampling=sampling)  # type: ignore[assignment]
    intake.admit(0)
    own = GroupKey(0, Role.TRAIN, 0)
    rollout.finish(own)
    assert own in intake.buffer.owed(2, 0)
    rollout.finish(own._replace(role=Role.TEACHER))
    assert own not in intake.buffer.owed(2, 0)


def test_a_group_that_was_given_up_leaves_an_empty_slot() -> None:
    intake, rollout = make_intake(bound=0)
    rollout.given_up = {GroupKey(0, Role.TRAIN, 1)}
    first, second = intake.next_slots(2, 0, lambda owed: None)
    assert (first.receipt is not None, first.is_given_up) == (True, False)
    assert (second.receipt, second.is_given_up) == (None, True)


def test_ages_are_counted_in_versions_and_the_bound_is_held() -> None:
    intake, rollout = make_intake(bound=1, version=5)
    rollout.versions = {0: 4, 1: 5}
    assert [slot.age for slot in intake.next_slots(2, 5, lambda owed: None)] == [1, 0]
    intake, rollout = make_intake(bound=1, version=5)
    rollout.versions = {0: 3}
    with pytest.raises(StageError, match="group 0 has tokens 2 versions old, rollout.max_off_policy_steps is 1"):
        intake.next_slots(2, 5, lambda owed: None)


def test_a_recovered_group_may_be_as_old_as_the_step_that_takes_it_allows() -> None:
    intake, rollout = make_intake(bound=2, version=7)
    intake.admit(7)
    assert rollout.oldest == {0: 5, 1: 5, 2: 6, 3: 6}, "only two steps are left"
    intake, rollout = make_intake(bound=2, steps=99, version=7)
    intake.admit(7)
    assert rollout.oldest == {0: 5, 1: 5, 2: 6, 3: 6, 4: 7, 5: 7}
    intake, rollout = make_intake(bound=0, version=7)
    intake.admit(7)
    assert rollout.oldest == {0: 7, 1: 7}


def test_too_few_samplers_do_not_break_an_update_off() -> None:
    intake, _ = make_intake(bound=1)
    intake.meanwhile(0.0)
