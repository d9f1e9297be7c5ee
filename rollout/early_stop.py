"""Completions that only vote stop once the vote is decided: the sampler's side. The voter alone knows the rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from quorum.types import Completion, FinishReason, GroupRequest
from rollout.ray_errors import first_line

ANSWER_SECONDS = 10.0
"""Time for a voter's answer. After it the group is drawn to its end."""


class EarlyStop:
    """Asks one group's voter, as completions finish, whether the winner can still change.

    One question is under way at a time; completions that finish meanwhile go into the next. A voter that fails or
    does not answer stops nothing and is not asked again for this group. Use as a context: leaving it ends the asking.

    Args:
        request: with `vote_only` and a `voter`.
        stop: called once with the completions to end.
        complain: told what ails the voter.
        answer_seconds: how long to wait for an answer.
    """

    def __init__(
        self,
        request: GroupRequest,
        stop: Callable[[Collection[int]], None],
        complain: Callable[[str], None],
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._request = request
        self._stop = stop
        self._complain = complain
        self._seconds = answer_seconds
        self._finished: list[tuple[int, str, FinishReason]] = []
        self._stoppable = set(request.vote_only) & set(request.drawn)
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def __enter__(self) -> EarlyStop:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()

    def note(self, completion: Completion) -> None:
        """A completion finished."""
        self._finished.append((completion.index, completion.text, completion.finish_reason))
        self._stoppable.discard(completion.index)
        can_be_decided = 2 * len(self._finished) > self._request.sampling.num_completions
        if can_be_decided and self._task is None and self._stoppable and not self._is_over:
            self._task = asyncio.ensure_future(self._ask())

    async def _ask(self) -> None:
        """Ask until an answer covers all that has finished."""
        num_asked = 0
        while self._stoppable and not self._is_over and num_asked < len(self._finished):
            num_asked = len(self._finished)
            if await self._is_decided(list(self._finished)):
                self._is_over = True
                self._stop(frozenset(self._stoppable))
        self._task = None

    async def _is_decided(self, texts: list[tuple[int, str, FinishReason]]) -> bool:
        request = self._request
        try:
            return bool(
                await asyncio.wait_for(
                    request.voter.decided.remote(texts, request.sampling.num_completions, request.prompt.extractor),
                    self._seconds,
                )
            )
        except Exception as exc:  # noqa: BLE001 - whatever ails the voter, the group is drawn to its end
            self._is_over = True
            self._complain(
                f"the voter did not say whether the vote is decided ({type(exc).__name__}: {first_line(exc)})"
            )
            return False
