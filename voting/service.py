"""Voting as a service: replicas (Ray actors) that tally and reward, and the driver's handle on them.

Ray is imported only where actors are made; `Voter` itself is a plain class that votes without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from configs.load import import_plugins
from configs.schema import DeadlineSection, Plugin, VotingSection
from quorum.errors import QuorumError, ResourceError, VotingError
from quorum.types import Resolution, RolloutGroup, ScoredGroup, ScoreReceipt, Tally
from voting.equivalence import Equivalence, make_equivalence
from voting.extract import Extractor, make_extractor
from voting.rewards import receipt_of, reward
from voting.rules import make_rule
from voting.tally import tally


class Voter:
    """One voting replica: the tally and reward phases of single groups. Holds caches, but no state that decides."""

    def __init__(self, section: VotingSection, plugins: tuple[str, ...] = ()) -> None:
        """Start the replica, with worker processes where the equivalence needs them.

        Args:
            section: extractor, equivalence and rule.
            plugins: the user's modules, imported first.

        Raises:
            ConfigError: unknown plug-ins or wrong options.
            VotingError: worker processes did not start.
        """
        extractor, self._equivalence = _make_parts(section, plugins)
        self._extractors: dict[str, Extractor] = {section.extractor.name: extractor}
        self._section = section
        self._equivalence.start()

    def tally(self, group: RolloutGroup, extractor: str | None = None) -> Tally:
        """First phase for one group.

        Args:
            group: k completions.
            extractor: name that replaces the configured one for this prompt; its options are the defaults.

        Raises:
            ConfigError: no extractor is called so.
            VotingError: worker processes could not be replaced.
        """
        name = extractor or self._section.extractor.name
        if name not in self._extractors:
            self._extractors[name] = make_extractor(Plugin(name=name))
        return tally(group, self._extractors[name], self._equivalence, truncated=self._section.truncated)

    def reward(self, group: RolloutGroup, tally: Tally, resolution: Resolution) -> tuple[ScoreReceipt, ScoredGroup]:
        """Third phase for one group: (what the driver learns, what the learner gets)."""
        scored = reward(group, tally, resolution, self._section)
        return receipt_of(scored), scored

    def ping(self) -> dict[str, Any]:
        """`pid` of the replica and `worker_pids` of its worker processes."""
        return {"pid": os.getpid(), "worker_pids": self._equivalence.pids}

    def close(self) -> None:
        """End the replica's worker processes."""
        self._equivalence.stop()


class VotingService:
    """The driver's handle on the voting replicas. Every wait is bounded; errors name the replica.

    Results of `tally` and the receipts of `reward` are read through `fetch`, which knows who owed them.
    """

    def __init__(self, actors: Mapping[str, Any], pids: Mapping[str, list[int]], deadlines: DeadlineSection) -> None:
        self._actors = dict(actors)
        self._pids = dict(pids)
        self._deadlines = deadlines
        self._owed: dict[str, tuple[str, str]] = {}
        """Reference (hex) -> (replica, what it was asked), until fetched. Holds no reference: objects can be freed."""
        self._num_owed = dict.fromkeys(self._actors, 0)

    @classmethod
    def start(
        cls,
        section: VotingSection,
        *,
        plugins: Sequence[str] = (),
        deadlines: DeadlineSection,
        actor_options: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        name_prefix: str = "voter",
    ) -> VotingService:
        """Start all replicas at once and wait until each one answers.

        Args:
            section: what and how many.
            plugins: the user's modules.
            deadlines: `start_seconds` bounds this call, `vote_seconds` every later one.
            actor_options: Ray options of each replica (num_cpus, scheduling_strategy, runtime_env ...).
            namespace: Ray namespace of the named actors; None takes the session's.
            name_prefix: replica i is called `{name_prefix}-{i}`.

        Raises:
            ResourceError: replicas that were not placed or did not come up in time, by name. None is left behind.
            ConfigError: the section is wrong.
        """
        import ray

        _make_parts(section, plugins)  # what is wrong with the section is said here, before any actor starts
        options = {"num_cpus": 1, "max_restarts": 0, **(actor_options or {})}
        remote = ray.remote(Voter)
        actors: dict[str, Any] = {}
        try:
            for i in range(section.num_replicas):
                name = f"{name_prefix}-{i}"
                made = remote.options(name=name, namespace=namespace, **options).remote(section, tuple(plugins))
                actors[name] = made
            pids = _wait_ready(actors, deadlines.start_seconds)
        except BaseException:
            _kill(actors.values())
            raise
        return cls(actors, pids, deadlines)

    def tally(self, group_ref: Any, extractor: str | None = None) -> Any:
        """Start the first phase of a group on the least loaded replica; returns a reference to its Tally."""
        name = self._least_loaded()
        ref = self._actors[name].tally.remote(group_ref, extractor)
        self._owe(ref, name, "a tally")
        return ref

    def reward(self, group_ref: Any, tally: Tally, resolution: Resolution) -> tuple[Any, Any]:
        """Start the third phase of a group; returns references to its ScoreReceipt and ScoredGroup."""
        name = self._least_loaded()
        receipt_ref, scored_ref = self._actors[name].reward.options(num_returns=2).remote(group_ref, tally, resolution)
        self._owe(receipt_ref, name, f"the rewards of group {tally.group_id}")
        return receipt_ref, scored_ref

    def fetch(self, ref: Any, timeout: float | None = None) -> Any:
        """The value of a Tally or ScoreReceipt reference.

        Args:
            ref: as returned by `tally`, or the first one returned by `reward`.
            timeout: seconds; None takes `deadlines.vote_seconds`.

        Raises:
            VotingError: the replica died, failed or did not answer in time; says which and what it owed.
            ConfigError: the group asked for an extractor that does not exist.
        """
        import ray

        seconds = self._deadlines.vote_seconds if timeout is None else timeout
        name, what = self._owed.get(ref.hex(), ("unknown", "a result"))
        try:
            value = ray.get(ref, timeout=seconds)
            self._settle(ref)
            return value
        except ray.exceptions.GetTimeoutError as error:
            raise VotingError(
                f"voting replica {name} did not return {what} within {seconds:g} s (deadlines.vote_seconds)"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise VotingError(f"voting replica {name} died while it owed {what}: {_first_line(error)}") from error
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, QuorumError):
                raise error.cause from error
            raise VotingError(f"voting replica {name} failed at {what}: {_first_line(error.cause)}") from error
        except ray.exceptions.RayError as error:
            raise VotingError(f"voting replica {name} could not return {what}: {_first_line(error)}") from error

    def check(self) -> None:
        """Ask every replica whether it lives.

        Raises:
            VotingError: names those that are dead. One that is only busy is not.
        """
        import ray

        dead = []
        for name, ref in [(name, actor.ping.remote()) for name, actor in self._actors.items()]:
            try:
                ray.get(ref, timeout=1.0)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayActorError as error:
                dead.append(f"{name} (pid {self._pids[name][0]}): {_first_line(error)}")
        if dead:
            raise VotingError(f"voting replicas died: {'; '.join(dead)}")

    def describe(self) -> list[tuple[str, int]]:
        """(name, process id) of every replica."""
        return [(name, pids[0]) for name, pids in self._pids.items()]

    @property
    def pids(self) -> list[int]:
        """Every process of the service as it was at the start: replicas and their workers."""
        return [pid for pids in self._pids.values() for pid in pids]

    def stop(self, timeout: float | None = None) -> None:
        """End all replicas within `timeout` seconds (None: `deadlines.stop_seconds`); those still busy are killed."""
        import ray

        seconds = self._deadlines.stop_seconds if timeout is None else timeout
        closing = [actor.close.remote() for actor in self._actors.values()]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=seconds)
        _kill(self._actors.values())
        self._actors, self._num_owed, self._owed = {}, {}, {}

    def _least_loaded(self) -> str:
        if not self._actors:
            raise VotingError("the voting service is stopped; start it again before voting")
        name = min(self._num_owed, key=self._num_owed.__getitem__)
        self._num_owed[name] = self._num_owed.pop(name)  # last among equals from now on
        return name

    def _settle(self, ref: Any) -> None:
        owed = self._owed.pop(ref.hex(), None)
        if owed:
            self._num_owed[owed[0]] -= 1

    def _owe(self, ref: Any, name: str, what: str) -> None:
        self._owed[ref.hex()] = (name, what)
        self._num_owed[name] += 1


def _make_parts(section: VotingSection, plugins: Sequence[str]) -> tuple[Extractor, Equivalence]:
    import_plugins(plugins)
    make_rule(section.rule)
    return make_extractor(section.extractor), make_equivalence(section)


def _wait_ready(actors: Mapping[str, Any], timeout: float) -> dict[str, list[int]]:
    """Process ids of each replica with its workers, once all answer."""
    import ray

    deadline = time.monotonic() + timeout
    pings = {name: actor.ping.remote() for name, actor in actors.items()}
    ray.wait(list(pings.values()), num_returns=len(pings), timeout=timeout)
    pids: dict[str, list[int]] = {}
    problems = []
    for name, ref in pings.items():
        try:
            answer = ray.get(ref, timeout=max(0.1, deadline - time.monotonic()))
            pids[name] = [answer["pid"], *answer["worker_pids"]]
        except ray.exceptions.GetTimeoutError:
            problems.append(f"{name} was not placed or not ready within {timeout:g} s")
        except ray.exceptions.RayError as error:
            problems.append(f"{name} failed to start: {_first_line(error)}")
    if problems:
        raise ResourceError(
            f"{len(problems)} of {len(pings)} voting replicas did not start: {'; '.join(problems)}; give the cluster "
            "more CPUs, or lower voting.num_replicas or raise deadlines.start_seconds"
        )
    return pids


def _kill(actors: Any) -> None:
    import ray

    for actor in actors:
        ray.kill(actor, no_restart=True)


def _first_line(error: BaseException | None) -> str:
    """The line of a Ray error that says what happened: its last one, for a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
