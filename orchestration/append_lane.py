"""Finished groups on their way into the durable log: those that wait while a record is written go as the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quorum.types import GroupKey
from rollout.inbox import Inbox

MOST_GROUPS = 16
"""In one record. More save little: a record costs an fsync and a conversion, and 16 groups share them."""

Then = Callable[[Any, BaseException | None], None]
"""Takes (reference to the durable group, error); one of them is None."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: GroupKey
    step: int
    group: Any
    """ObjectRef[RolloutGroup]"""
    then: Then

    @property
    def place(self) -> tuple[int, int, str]:
        """A record's groups are of one step, branch and role."""
        return self.step, self.key.branch, self.key.role.value


class AppendLane:
    """Brings groups to the log's writer, one call at a time.

    consumes: references to finished groups.  waits for: the record under way.  unblocked by: the log's writer.
    produces: for each group a word that it is durable, or why it is not.
    """

    def __init__(self, log: Any, inbox: Inbox, *, keeps: bool, is_lost: Callable[[BaseException], bool]) -> None:
        """Bind the parts.

        Args:
            log: actor handle of the group log.
            inbox: brings the writer's answers to the caller's thread.
            keeps: the writer gives the groups back as objects of its own node, which outlive those of the samplers'.
            is_lost: whether an error says that a group died with its node before it was written.
        """
        self._log, self._inbox, self._keeps, self._is_lost = log, inbox, keeps, is_lost
        self._waiting: deque[_Entry] = deque()
        self._alone: deque[_Entry] = deque()
        """Of records that failed because one of their groups was lost: each is tried alone."""
        self._under_way: list[_Entry] = []

    def __len__(self) -> int:
        """Groups that are not durable yet."""
        return len(self._waiting) + len(self._alone) + len(self._under_way)

    def add(self, key: GroupKey, step: int, group: Any, then: Then) -> None:
        """Have a group written; `then` is told by the inbox."""
        self._waiting.append(_Entry(key, step, group, then))
        self._send()

    def _send(self) -> None:
        if self._under_way:
            return
        self._under_way = entries = self._next_record()
        if not entries:
            return
        groups = [entry.group for entry in entries]
        if self._keeps:
            ref, *groups = self._log.keep_all.options(num_returns=1 + len(groups)).remote(entries[0].step, *groups)
        else:
            ref = self._log.append_all.remote(entries[0].step, *groups)

        def then(_: Any, error: BaseException | None) -> None:
            self._under_way = []
            if error is not None and len(entries) > 1 and self._is_lost(error):
                self._alone += entries
                self._send()
                return
            self._send()
            for entry, group in zip(entries, groups, strict=True):
                entry.then(None if error is not None else group, error)

        self._inbox.expect(ref, then)

    def _next_record(self) -> list[_Entry]:
        if self._alone:
            return [self._alone.popleft()]
        entries: list[_Entry] = []
        while self._waiting and len(entries) < MOST_GROUPS:
            if entries and self._waiting[0].place != entries[0].place:
                break
            entries.append(self._waiting.popleft())
        return entries
