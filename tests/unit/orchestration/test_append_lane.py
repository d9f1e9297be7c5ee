"""Groups that wait for the log's writer share a record; each learns its own fate."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestration.append_lane import MOST_GROUPS, AppendLane
from quorum.types import GroupKey, Role
from rollout.inbox import Inbox


class Lost(Exception):
    """A group died with its node."""


class Call:
    """A reference that is answered by hand."""

    def __init__(self) -> None:
        self.answer: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.answer


@dataclass
class Writer:
    """Stands for the log's actor: notes what it is given."""

    records: list[tuple[int, tuple[Any, ...]]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def append_all(self) -> Writer:
        return self

    @property
    def keep_all(self) -> Writer:
        return self

    def options(self, num_returns: int) -> Writer:
        self.num_returns = num_returns
        return self

    def remote(self, step: int, *groups: Any) -> Any:
        self.records.append((step, groups))
        self.calls.append(Call())
        kept = [f"kept {group}" for group in groups]
        return [self.calls[-1], *kept] if hasattr(self, "num_returns") else self.calls[-1]


@dataclass
class Desk:
    """A lane with its writer, and what became of the groups."""

    keeps: bool = False
    told: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writer, self.inbox = Writer(), Inbox()
        self.lane = AppendLane(self.writer, self.inbox, keeps=self.keeps, is_lost=lambda e: isinstance(e, Lost))

    def add(self, *ids: int, step: int = 0, role: Role = Role.TRAIN) -> None:
        for number in ids:
            self.lane.add(
                GroupKey(0, role, number), step, number, lambda group, error, n=number: self._note(n, group, error)
            )

    def _note(self, number: int, group: Any, error: BaseException | None) -> None:
        assert number not in self.told, "each group is told of once"
        self.told[number] = error or group

    def answer(self, error: BaseException | None = None) -> None:
        """The writer answers its last call."""
        if error is None:
            self.writer.calls[-1].answer.set_result(None)
        else:
            self.writer.calls[-1].answer.set_exception(error)
        self.inbox.take_in(0)


def test_a_group_that_comes_alone_is_written_at_once() -> None:
    desk = Desk()
    desk.add(1)
    assert desk.writer.records == [(0, (1,))]
    assert len(desk.lane) == 1 and desk.told == {}
    desk.answer()
    assert desk.told == {1: 1} and not len(desk.lane)


def test_groups_that_wait_for_the_writer_share_its_next_record() -> None:
    desk = Desk()
    desk.add(1, 2, 3)
    desk.answer()
    assert desk.writer.records == [(0, (1,)), (0, (2, 3))]
    assert desk.told == {1: 1} and len(desk.lane) == 2
    desk.answer()
    assert desk.told == {1: 1, 2: 2, 3: 3}


def test_a_record_holds_groups_of_one_step_and_role_and_not_too_many() -> None:
    desk = Desk()
    desk.add(0)
    desk.add(*range(1, MOST_GROUPS + 3))
    desk.add(90, step=1)
    desk.add(91, step=1, role=Role.TEACHER)
    for _ in range(5):
        desk.answer()
    sizes = [(step, len(groups)) for step, groups in desk.writer.records]
    assert sizes == [(0, 1), (0, MOST_GROUPS), (0, 2), (1, 1), (1, 1)]
    assert not len(desk.lane) and len(desk.told) == MOST_GROUPS + 5


def test_the_writers_copies_are_handed_on_where_nodes_may_be_lost() -> None:
    desk = Desk(keeps=True)
    desk.add(1, 2, 3)
    desk.answer()
    assert desk.writer.num_returns == 3
    desk.answer()
    assert desk.told == {1: "kept 1", 2: "kept 2", 3: "kept 3"}


def test_a_group_lost_with_its_node_takes_no_other_with_it() -> None:
    desk = Desk()
    desk.add(1, 2, 3)
    desk.answer()
    desk.answer(Lost())
    assert desk.told == {1: 1} and len(desk.lane) == 2
    desk.add(4)
    desk.answer()
    lost = Lost()
    desk.answer(lost)
    desk.answer()
    assert desk.writer.records[2:] == [(0, (2,)), (0, (3,)), (0, (4,))]
    assert desk.told == {1: 1, 2: 2, 3: lost, 4: 4}


def test_a_full_disk_is_told_to_all_groups_of_the_record() -> None:
    desk = Desk()
    desk.add(1, 2, 3)
    desk.answer()
    desk.answer(OSError("full"))
    assert [type(desk.told[number]) for number in (2, 3)] == [OSError, OSError]
    assert not len(desk.lane)
    with pytest.raises(IndexError):
        desk.writer.records[2]
