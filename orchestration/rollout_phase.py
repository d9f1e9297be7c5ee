"""Drives one batch of groups through samplers, durable log and tally. Used for training steps and evaluation.

consumes: group requests.  waits for: finished groups, bounded by the pool's progress deadline.
unblocked by: samplers.  produces: receipts, group references and tally references, per group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema import RunConfig
from orchestration.stack import Stack
from quorum.errors import StorageError
from quorum.types import GroupKey, GroupRequest, Prompt, Receipt, Role, SamplingSettings, Tally, group_seed

POLL_SECONDS = 0.5
"""How often a wait looks whether a signal has come."""
QUIET_SECONDS = 60.0
"""Without a finished group for so long the samplers' doings are told."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One group after rollout: receipt on the driver, token data in the object store."""

    receipt: Receipt
    group: Any
    """ObjectRef[RolloutGroup]"""
    tally: Any
    """ObjectRef[Tally]"""


class RolloutPhase:
    """Generates groups, appends each to the durable log as it finishes, and starts its tally at once."""

    def __init__(
        self,
        config: RunConfig,
        stack: Stack,
        log: Any,
        check_signals: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Bind the parts. `say` is told what each sampler is doing when no group finishes for QUIET_SECONDS."""
        self._config, self._stack, self._log = config, stack, log
        self._check_signals, self._say = check_signals, say

    def request(self, key: GroupKey, prompt: Prompt, sampling: SamplingSettings, version: int) -> GroupRequest:
        """The request of one group: its seed depends on the run's seed and the group's identity alone."""
        seed = group_seed(self._config.run.seed, key)
        return GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=seed, required_version=version)

    def run(
        self,
        requests: Sequence[GroupRequest],
        step: int,
        recovered: Mapping[GroupKey, Any] | None = None,
        on_finished: Callable[[int], None] = lambda done: None,
    ) -> dict[GroupKey, Finished]:
        """Finish all groups of a batch.

        Args:
            requests: in group order.
            step: written with each group into the log.
            recovered: groups finished by an earlier incarnation, as (receipt, group) references: not generated again.
            on_finished: called with the number of groups finished so far.

        Raises:
            RolloutError: a sampler died or made no progress within its deadline.
            StorageError: the durable log could not be written.
        """
        recovered = recovered or {}
        finished: dict[GroupKey, Finished] = {}
        appends: list[Any] = []
        extractors = {request.key: request.prompt.extractor for request in requests}
        fresh = [request for request in requests if request.key not in recovered]
        for request in fresh:
            self._stack.pool.submit(request)
        known = [request.key for request in requests if request.key in recovered]
        receipts = self._settle([recovered[key][0] for key in known], "come back from the durable log")
        for key, receipt in zip(known, receipts, strict=True):
            finished[key] = self._tallied(key, receipt, recovered[key][1], extractors)
        last_finished = last_said = time.monotonic()
        while len(finished) < len(requests):
            now = time.monotonic()
            if now - max(last_finished, last_said) > QUIET_SECONDS:
                last_said = now
                self._say(
                    f"no group finished for {now - last_finished:.0f} s: {'; '.join(self._stack.pool.describe())}"
                )
            for done in self._stack.pool.next_finished(POLL_SECONDS):
                last_finished = time.monotonic()
                key = done.request.key
                appends.append(self._log.append.remote(done.group_ref, step))
                finished[key] = self._tallied(key, done.receipt, done.group_ref, extractors)
                on_finished(len(finished))
            self._check_signals()
        self._settle(appends, "append to the durable log")
        return finished

    def tallies(self, finished: Mapping[GroupKey, Finished], keys: Sequence[GroupKey]) -> list[Tally]:
        """Tallies in the order of `keys`. Raises VotingError."""
        return [self._stack.voting.fetch(finished[key].tally) for key in keys]

    def _tallied(
        self, key: GroupKey, receipt: Receipt, group: Any, extractors: Mapping[GroupKey, str | None]
    ) -> Finished:
        return Finished(receipt, group, self._stack.voting.tally(group, extractors[key]))

    def _settle(self, refs: list[Any], what: str) -> list[Any]:
        return fetch(refs, self._config.deadlines.save_seconds, what, StorageError)


def fetch(refs: list[Any], timeout: float, what: str, error: type[Exception]) -> list[Any]:
    """Values of `refs`, or `error` saying how many were late or what the actor raised."""
    import ray

    try:
        return ray.get(refs, timeout=timeout)  # type: ignore[no-any-return]
    except ray.exceptions.GetTimeoutError as exc:
        _, late = ray.wait(refs, num_returns=len(refs), timeout=0)
        raise error(
            f"{len(late)} of {len(refs)} calls did not {what} within {timeout:.0f} s (deadlines.save_seconds)"
        ) from exc
    except ray.exceptions.RayTaskError as exc:
        cause = exc.cause if isinstance(exc.cause, Exception) else None
        if isinstance(cause, error):
            raise cause from exc
        raise error(f"could not {what}: {str(exc).strip().splitlines()[-1]}") from exc
    except ray.exceptions.RayError as exc:
        raise error(f"could not {what}: {str(exc).strip().splitlines()[0]}") from exc


def train_sampling(config: RunConfig) -> SamplingSettings:
    """How training groups are drawn."""
    section = config.rollout
    return SamplingSettings(
        num_completions=section.completions_per_prompt,
        temperature=section.temperature,
        top_p=section.top_p,
        max_completion_tokens=section.max_completion_tokens,
        stop=section.stop,
    )


def train_key(branch: int, group_id: int) -> GroupKey:
    return GroupKey(branch, Role.TRAIN, group_id)
