"""Drives one batch of groups through samplers, durable log and tally. Used for training steps and evaluation.

consumes: group requests.  waits for: finished groups, bounded by the pool's progress deadline.
unblocked by: samplers.  produces: receipts, group references and tally references, per group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from configs.schema import RunConfig
from data.references import Dispenser
from orchestration.labels import TallyDesk, needs_scores
from orchestration.stack import Stack
from quorum.errors import StorageError
from quorum.types import GroupKey, GroupRequest, GroupScores, Prompt, Receipt, Role, SamplingSettings, Tally, group_seed
from rollout.pool import FinishedGroup
from voting.replicas import Ticket

POLL_SECONDS = 0.5
"""How often a wait looks whether a signal has come."""
SHARED_POLL_SECONDS = 0.05
"""Instead of POLL_SECONDS while policy and teacher both draw."""
QUIET_SECONDS = 60.0
"""Without a finished group for so long the samplers' doings are told."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One group after rollout: receipt on the driver, token data in the object store."""

    receipt: Receipt
    group: Any
    """ObjectRef[RolloutGroup]"""
    tally: Ticket | Tally | None
    """Of voting, or from the durable log; None for a teacher's group."""


class RecoveredGroup(NamedTuple):
    """A group that an earlier incarnation finished, as references into the object store."""

    receipt: Any
    group: Any
    tally: Any
    """To its Tally, or None where it was not tallied."""


@dataclass
class _Batch:
    """The groups of one `run` that are finished, and the desk that has them tallied."""

    desk: TallyDesk
    prompts: Mapping[GroupKey, Prompt]
    groups: dict[GroupKey, tuple[Receipt, Any]] = field(default_factory=dict)
    tallied: dict[GroupKey, Tally] = field(default_factory=dict)
    score: Callable[[list[Any]], list[GroupScores]] | None = None
    """References of groups -> their scores; None where the vote rule asks for none."""
    unscored: dict[GroupKey, Any] = field(default_factory=dict)

    def add(self, key: GroupKey, receipt: Receipt, group_ref: Any, tally: Tally | None = None) -> None:
        self.groups[key] = (receipt, group_ref)
        if tally is not None:
            self.tallied[key] = tally
        elif self.score is not None and key.role is Role.TRAIN:
            self.unscored[key] = group_ref
            return
        self.desk.add(key, self.prompts[key], group_ref, is_tallied=tally is not None)

    def finished(self) -> dict[GroupKey, Finished]:
        if self.score is not None:
            keys = sorted(self.unscored)
            for key, scores in zip(keys, self.score([self.unscored[key] for key in keys]), strict=True):
                self.desk.add(key, self.prompts[key], self.unscored[key], scores=scores)
        self.desk.close()
        return {
            key: Finished(receipt, group, self.tallied.get(key) or self.desk.tickets.get(key))
            for key, (receipt, group) in self.groups.items()
        }


class RolloutPhase:
    """Generates groups, appends each to the durable log as it finishes, and starts its tally at once."""

    def __init__(
        self,
        config: RunConfig,
        stack: Stack,
        log: Any,
        check_signals: Callable[[], None],
        say: Callable[[str], None],
        dispenser: Dispenser | None = None,
    ) -> None:
        """Bind the parts.

        Args:
            config: of the run.
            stack: started.
            log: actor handle of the group log.
            check_signals: raises when a signal has come.
            say: told what each sampler does when no group finishes for QUIET_SECONDS, and of replicas' deaths.
            dispenser: of labels that the configuration reveals.
        """
        self._config, self._stack, self._log = config, stack, log
        self._dispenser = dispenser
        self._appending: list[Any] = []
        self._check_signals, self._say = check_signals, say

    def request(self, key: GroupKey, prompt: Prompt, sampling: SamplingSettings, version: int) -> GroupRequest:
        """The request of one group: its seed depends on the run's seed and the group's identity alone."""
        seed = group_seed(self._config.run.seed, key)
        return GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=seed, required_version=version)

    def run(
        self,
        requests: Sequence[GroupRequest],
        step: int,
        recovered: Mapping[GroupKey, RecoveredGroup] | None = None,
        on_finished: Callable[[int], None] = lambda done: None,
    ) -> dict[GroupKey, Finished]:
        """Finish all groups of a batch.

        Args:
            requests: in group order, a teacher's among them.
            step: written with each group into the log.
            recovered: groups finished by an earlier incarnation: not generated again.
            on_finished: called with the number of groups finished so far.

        Raises:
            RolloutError: a sampler died or made no progress within its deadline.
            StorageError: the durable log could not be written.
            VotingError: voting failed; see VotingService.fetch.
        """
        recovered = recovered or {}
        prompts = {request.key: request.prompt for request in requests}
        desk = TallyDesk(self._config, self._stack.voting, self._dispenser)
        batch = _Batch(desk, prompts, score=self._score if needs_scores(self._config) else None)
        for request in requests:
            if request.key not in recovered:
                self._stack.pool_of(request.key.role).submit(request)
        self._take_recovered({key: recovered[key] for key in prompts if key in recovered}, batch)
        appends: list[Any] = []
        last_finished = last_said = time.monotonic()
        while len(batch.groups) < len(requests):
            now = time.monotonic()
            if now - max(last_finished, last_said) > QUIET_SECONDS:
                last_said = now
                doings = "; ".join(line for pool in self._stack.pools for line in pool.describe())
                self._say(f"no group finished for {now - last_finished:.0f} s: {doings}")
            for done in self._next_finished():
                last_finished = time.monotonic()
                appends.append(self._log.append.remote(done.group_ref, step))
                batch.add(done.request.key, done.receipt, done.group_ref)
                on_finished(sum(key.role is not Role.TEACHER for key in batch.groups))
            self._stack.voting.pump()
            self._tell()
            self._check_signals()
        self._settle(appends, "append to the durable log")
        return batch.finished()

    def _score(self, group_refs: list[Any]) -> list[GroupScores]:
        assert self._stack.learner is not None
        return self._stack.learner.score(group_refs) if group_refs else []

    def _next_finished(self) -> list[FinishedGroup]:
        """Groups that finished in any pool, after POLL_SECONDS at most."""
        busy = [pool for pool in self._stack.pools if pool.num_unfinished]
        seconds = POLL_SECONDS if len(busy) == 1 else SHARED_POLL_SECONDS
        return [done for pool in busy for done in pool.next_finished(seconds)]

    def _take_recovered(self, recovered: Mapping[GroupKey, RecoveredGroup], batch: _Batch) -> None:
        """Groups of the log as if a sampler had just returned them; what was tallied once is not tallied again."""
        what = "come back from the durable log"
        receipts = self._settle([group.receipt for group in recovered.values()], what)
        tallies = self._settle([group.tally for group in recovered.values()], what)
        for (key, group), receipt, tally in zip(recovered.items(), receipts, tallies, strict=True):
            batch.add(key, receipt, group.group, tally)

    def tallies(self, owed: Sequence[tuple[GroupKey, Ticket | Tally | None]], step: int) -> list[Tally]:
        """Tallies of a batch's groups, in the order given; durable after `settle_tallies`.

        Raises:
            VotingError: a replica failed or was late.
            StorageError: the durable log could not be written.
        """
        found = [what if isinstance(what, Tally) else self._stack.voting.fetch(what) for _, what in owed]
        fresh = [(key, tally) for (key, what), tally in zip(owed, found, strict=True) if not isinstance(what, Tally)]
        if fresh:
            self._appending.append(self._log.append_tallies.remote(fresh, step))
        self._tell()
        return found

    def settle_tallies(self) -> None:
        """Wait until the tallies are on disk: before anything is learned from them. Raises StorageError."""
        appending, self._appending = self._appending, []
        self._settle(appending, "append tallies to the durable log")

    def _tell(self) -> None:
        """Show what happened to the voting replicas."""
        events, self._stack.voting.events = self._stack.voting.events, []
        for event in events:
            self._say(event)

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
