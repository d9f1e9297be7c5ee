"""Groups whose completions are shared out among samplers, and joined again by a process that reads their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from quorum.types import GroupKey, GroupRequest, Receipt
from rollout.handle import Work


@dataclass(slots=True)
class _Split:
    whole: Work
    parts: dict[tuple[int, ...], tuple[Receipt, Any] | None] = field(default_factory=dict)
    """By the completions of each part: (receipt, reference to its group) once it is there."""
    is_doomed: bool = False
    """Whether a part was given up: the group ends when no other part runs any more."""


class Splits:
    """The groups that are split now."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._splits: dict[GroupKey, _Split] = {}
        self._joiner: Any = None

    @property
    def num_joining(self) -> int:
        """Groups all of whose parts are there."""
        return sum(None not in split.parts.values() for split in self._splits.values())

    def can_split(self, work: Work) -> bool:
        """Whether it is a whole group of several completions that nothing speaks against splitting."""
        request = work.request
        return self._enabled and request.indices is None and len(request.drawn) > 1 and not work.losses

    def split(self, work: Work, num_parts: int) -> list[Work]:
        """Cut a group into parts of as equal size as can be."""
        request, drawn = work.request, work.request.drawn
        num_parts = min(max(2, num_parts), len(drawn))
        cuts = [len(drawn) * i // num_parts for i in range(num_parts + 1)]
        split = self._splits[request.key] = _Split(work)
        works = []
        for begin, end in zip(cuts, cuts[1:], strict=False):
            part = drawn[begin:end]
            split.parts[part] = None
            vote_only = tuple(index for index in request.vote_only if index in part)
            tokens = work.expected_tokens * len(part) / len(drawn)
            works.append(Work(replace(request, indices=part, vote_only=vote_only), tokens, work.order))
        return works

    def add(self, part: Work, receipt: Receipt, group_ref: Any) -> tuple[object, Any, Any] | None:
        """A part is there. With the last one returns (what to close, reference to the whole's receipt, to its group).

        Of a group that is given up a part only ends, see `end`.
        """
        split = self._splits.get(part.request.key)
        assert split is not None and part.request.indices is not None and not split.is_doomed
        split.parts[part.request.indices] = (receipt, group_ref)
        found = [there for there in split.parts.values() if there is not None]
        if len(found) < len(split.parts):
            return None
        join = self._the_joiner().join.options(num_returns=2)
        refs, receipts = [ref for _, ref in found], [receipt for receipt, _ in found]
        k = split.whole.request.sampling.num_completions
        receipt_ref, joined_ref = join.remote(receipts, *refs, num_completions=k)
        return split, receipt_ref, joined_ref

    def close(self, split: object) -> GroupRequest | None:
        """Forget a group that is joined; returns its request, None when it was abandoned meanwhile."""
        assert isinstance(split, _Split)
        key = split.whole.request.key
        if self._splits.get(key) is not split:
            return None
        return self._splits.pop(key).whole.request

    def is_doomed(self, work: Work) -> bool:
        """Whether it is a part of a group that is given up."""
        split = self._splits.get(work.request.key) if work.request.indices is not None else None
        return split is not None and split.is_doomed

    def end(self, work: Work) -> GroupRequest | None:
        """A group, or a part of one, is given up or ends after another part was. Returns the whole group's request once
        nothing of it runs any more: then the group has ended."""
        if work.request.indices is None:
            return work.request
        split = self._splits[work.request.key]
        split.is_doomed = True
        split.parts = {part: there for part, there in split.parts.items() if there is None}
        split.parts.pop(work.request.indices, None)
        return None if split.parts else self._splits.pop(work.request.key).whole.request

    def clear(self) -> None:
        self._splits.clear()

    def _the_joiner(self) -> Any:
        if self._joiner is None:
            import ray

            from rollout.joining import Joiner

            self._joiner = ray.remote(Joiner).options(num_cpus=0).remote()
        return self._joiner

    def stop(self) -> None:
        if self._joiner is not None:
            import ray

            joiner, self._joiner = self._joiner, None
            ray.kill(joiner)
