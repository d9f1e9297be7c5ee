"""Groups on their way through samplers, durable log and tally: a step's, later steps', an evaluation's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from configs.schema import RunConfig
from data.references import Dispenser
from orchestration.append_lane import AppendLane
from orchestration.labels import TallyDesk, needs_scores
from orchestration.stack import Stack
from quorum.errors import StorageError
from quorum.types import GroupKey, GroupRequest, GroupScores, Prompt, Receipt, Role, SamplingSettings, Tally, group_seed
from rollout.inbox import Inbox
from rollout.pool import FinishedGroup
from voting.replicas import Ticket

POLL_SECONDS = 0.5
"""How often a wait looks whether a signal has come."""
SHARED_POLL_SECONDS = 0.05
"""Instead of POLL_SECONDS while there are several things to wait for: two pools, or groups on their way to disk."""
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


class RolloutPhase:
    """Brings groups from request to durable, tallied group, as they finish, whoever waits for them.

    consumes: group requests.  waits for: finished groups and their place in the durable log.  unblocked by: samplers
    and the log's writer.  produces: receipts, group references and tally tickets, by group.
    """

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
            say: told what each sampler does when no group finishes for QUIET_SECONDS, and of deaths and replacements.
            dispenser: of labels that the configuration reveals.
        """
        self._config, self._stack, self._log = config, stack, log
        self._check_signals, self._say = check_signals, say
        self._desk = TallyDesk(config, stack.voting, dispenser)
        self._scores_votes = needs_scores(config)
        self._inbox = Inbox()
        self._prompts: dict[GroupKey, Prompt] = {}
        """Of the groups on their way or waiting to be collected."""
        self._steps: dict[GroupKey, int] = {}
        """Under which step the log has them."""
        self._lane = AppendLane(log, self._inbox, keeps=config.cluster.address != "local", is_lost=is_lost)
        self._groups: dict[GroupKey, tuple[Receipt, Any]] = {}
        """Finished ones: receipt and reference."""
        self._tallied: dict[GroupKey, Tally] = {}
        """Of recovered ones."""
        self._given_up: set[GroupKey] = set()
        self._appending: list[Any] = []
        self._last_finished = self._last_said = time.monotonic()
        self.on_finished: Callable[[GroupKey], None] = lambda key: None
        """Told of every group that finishes or is given up."""
        self.on_returned: Callable[[GroupKey, Receipt], None] = lambda key, receipt: None
        """Told of every group that a sampler returned, when the driver learns of it."""
        self.beside: Callable[[], None] = lambda: None
        """The driver's other business, done whenever this one waits."""

    def request(self, key: GroupKey, prompt: Prompt, sampling: SamplingSettings, version: int) -> GroupRequest:
        """The request of one group: its seed depends on the run's seed and the group's identity alone."""
        seed = group_seed(self._config.run.seed, key)
        return GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=seed, required_version=version)

    def submit(
        self,
        requests: Sequence[GroupRequest],
        step: int,
        recovered: Mapping[GroupKey, RecoveredGroup] | None = None,
        oldest: Mapping[GroupKey, int] | None = None,
    ) -> dict[GroupKey, Receipt]:
        """Have groups drawn.

        Args:
            requests: in group order, a teacher's among them.
            step: written with each group into the log.
            recovered: groups finished by an earlier incarnation: not generated again.
            oldest: oldest policy version that a recovered group may have tokens of; older ones are drawn anew. Groups
                that are not named may be of any age.

        Returns:
            Receipts of the recovered groups that were taken.

        Raises:
            StorageError: a recovered group could not be read.
        """
        there = {}
        if self.num_on_the_way == 0:
            self._last_finished = self._last_said = time.monotonic()
        for request in requests:
            self._prompts[request.key], self._steps[request.key] = request.prompt, step
            if recovered is not None and request.key in recovered:
                there[request.key] = recovered[request.key]
            else:
                self._stack.pool_of(request.key.role).submit(request)
        return self._take_recovered(there, {request.key: request for request in requests}, oldest or {})

    def run(
        self,
        requests: Sequence[GroupRequest],
        step: int,
        recovered: Mapping[GroupKey, RecoveredGroup] | None = None,
        on_finished: Callable[[int], None] = lambda done: None,
    ) -> dict[GroupKey, Finished]:
        """Draw groups and wait for all of them; see `submit`, `wait` and `collect`.

        Args:
            requests: what to draw.
            step: written with each group into the log.
            recovered: groups finished by an earlier incarnation.
            on_finished: called with the number of groups finished so far.
        """
        keys = [request.key for request in requests]
        self.submit(requests, step, recovered)
        left = len(keys)

        def owed() -> list[GroupKey]:
            nonlocal left
            missing = [key for key in keys if not self.is_finished(key)]
            if len(missing) < left:
                left = len(missing)
                on_finished(len(keys) - left)
            return missing

        self.wait(owed)
        return self.collect(keys)

    def wait(self, owed: Callable[[], Sequence[GroupKey]]) -> None:
        """Move everything on until nothing is owed; what is, is named when nothing finishes for long.

        Raises:
            RolloutError: too few samplers are left.
            StorageError: the durable log could not be written.
            VotingError: voting failed; see VotingService.fetch.
        """
        while missing := owed():
            self.pump(POLL_SECONDS)
            now = time.monotonic()
            if now - max(self._last_finished, self._last_said) > QUIET_SECONDS:
                self._last_said = now
                ids = ", ".join(f"{key.role.value} {key.group_id}" for key in missing)
                doings = "; ".join(line for pool in self._stack.pools for line in pool.describe())
                self._say(f"no group finished for {now - self._last_finished:.0f} s; owed are {ids}; {doings}")
            self._check_signals()

    def pump(self, seconds: float) -> None:
        """Move everything on, for `seconds` at most or until groups finish. Raises what `wait` raises."""
        busy = [pool for pool in self._stack.pools if pool.num_unfinished]
        is_alone = len(busy) == 1 and not self._lane
        share = seconds if is_alone else min(seconds, SHARED_POLL_SECONDS)
        for pool in self._stack.pools:
            for done in pool.pump(share if pool in busy else 0.0):
                self._take_in(done)
            for event in pool.take_events():
                self._say(event)
        self._inbox.take_in(0.0 if busy or not self._lane else min(seconds, POLL_SECONDS))
        self._stack.voting.pump()
        self._tell()
        self.beside()

    def voter(self) -> Any:
        """A replica to ask whether a vote is decided; None when none is ready."""
        return self._stack.voting.any_replica()

    @property
    def num_on_the_way(self) -> int:
        """Groups that are not finished."""
        return len(self._lane) + sum(pool.num_unfinished for pool in self._stack.pools)

    def is_finished(self, key: GroupKey) -> bool:
        """Whether a group is durable, or was given up."""
        return key in self._groups or key in self._given_up

    def is_given_up(self, key: GroupKey) -> bool:
        """Whether a group is quarantined."""
        return key in self._given_up

    def collect(self, keys: Sequence[GroupKey]) -> dict[GroupKey, Finished]:
        """Finished groups with their tallies under way; those given up are left out. Each is collected once.

        Raises:
            LearnerError: the learner could not score them for the vote.
        """
        there = [key for key in keys if key not in self._given_up]
        self._given_up -= set(keys)
        unscored = [key for key in there if self._is_scored(key)]
        for key, scores in zip(sorted(unscored), self._score(sorted(unscored)), strict=True):
            self._desk.add(key, self._prompts[key], self._groups[key][1], scores=scores)
        self._desk.close(there)
        finished = {}
        for key in there:
            receipt, group = self._groups.pop(key)
            finished[key] = Finished(receipt, group, self._tallied.pop(key, None) or self._desk.tickets.get(key))
        for key in keys:
            del self._prompts[key], self._steps[key]
        self._desk.forget(keys)
        return finished

    def _is_scored(self, key: GroupKey) -> bool:
        return self._scores_votes and key.role is Role.TRAIN and key not in self._tallied

    def _score(self, keys: Sequence[GroupKey]) -> list[GroupScores]:
        if not keys:
            return []
        assert self._stack.learner is not None
        return self._stack.learner.score([self._groups[key][1] for key in keys])

    def _take_in(self, done: FinishedGroup) -> None:
        key = done.request.key
        self._last_finished = time.monotonic()
        if done.receipt is None:
            self._given_up.add(key)
            self.on_finished(key)
            return
        receipt: Receipt = done.receipt
        self.on_returned(key, receipt)

        def then(group_ref: Any, error: BaseException | None) -> None:
            if error is None:
                self._is_there(key, receipt, group_ref)
            elif is_lost(error):
                self._say(f"group {key.group_id} was lost with its node before it was on disk; it is drawn again")
                self._stack.pool_of(key.role).submit(done.request)
            else:
                raise append_error(error) from error

        self._lane.add(key, self._steps[key], done.group_ref, then)

    def _is_there(self, key: GroupKey, receipt: Receipt, group_ref: Any, tally: Tally | None = None) -> None:
        """A group is durable: its tally starts."""
        self._groups[key] = (receipt, group_ref)
        if tally is not None:
            self._tallied[key] = tally
        if not self._is_scored(key):
            self._desk.add(key, self._prompts[key], group_ref, is_tallied=tally is not None)
        self.on_finished(key)

    def _take_recovered(
        self,
        recovered: Mapping[GroupKey, RecoveredGroup],
        requests: Mapping[GroupKey, GroupRequest],
        oldest: Mapping[GroupKey, int],
    ) -> dict[GroupKey, Receipt]:
        """Groups of the log as if a sampler had just returned them; what was tallied once is not tallied again."""
        what, taken = "come back from the durable log", {}
        receipts = self._settle([group.receipt for group in recovered.values()], what)
        tallies = self._settle([group.tally for group in recovered.values()], what)
        for (key, group), receipt, tally in zip(recovered.items(), receipts, tallies, strict=True):
            if min(receipt.versions, default=0) < oldest.get(key, 0):
                self._stack.pool_of(key.role).submit(requests[key])
                continue
            taken[key] = receipt
            self._is_there(key, receipt, group.group, tally)
        return taken

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


def is_lost(error: BaseException) -> bool:
    """Whether a call failed because the object it was to read died with its node."""
    import ray

    lost = ray.exceptions.ObjectLostError
    return isinstance(error, lost) or isinstance(getattr(error, "cause", None), lost)


def append_error(error: BaseException) -> StorageError:
    """Why a group could not be made durable."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, StorageError):
        return cause
    return StorageError(f"could not append to the durable log: {str(error).strip().splitlines()[-1]}")


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
