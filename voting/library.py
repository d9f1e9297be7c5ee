"""Voting for scripts and notebooks: `vote` and `Voting`, without Ray and whether or not an event loop runs.

The vote is the one of a training run: the same tallies, resolutions and rewards. Every wait has a deadline, and the
worker processes end with the call (`vote`) or with the `with` block (`Voting`), also on an error or Ctrl-C.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from configs.load import import_plugins
from configs.schema import Plugin, VotingSection, VotingServiceSection
from quorum.errors import ConfigError, VotingError
from quorum.types import Resolution, RolloutGroup, ScoredGroup, Tally
from voting.asking import finish
from voting.background import BackgroundLoop, each
from voting.context import NO_CONTEXT, StepContext
from voting.equivalence import make_equivalence
from voting.groups import Group, VotedGroup, as_groups, check_tokens
from voting.resolve import resolve
from voting.rewards import reward
from voting.rules import VoteRule, make_rule
from voting.tallier import Tallier
from voting.tally import Jury
from voting.variants import variant
from voting.workers import START_SECONDS

S = TypeVar("S")
T = TypeVar("T")
READING = ("extractor", "equivalence", "truncated")
"""Fields of a section that make its tallies; all others decide what becomes of them."""


class Voting:
    r"""Votes on any number of groups, with worker processes that live from their first use until `close`.

    All groups of one call are one batch: `voting.batch` (`keep_fraction`) sees them together. To be used from one
    thread at a time; after `close` it can be used again.

    Example:
        >>> groups = [[r"\boxed{7}", r"\boxed{7}", r"\boxed{3}"]]
        >>> with Voting() as voting:
        ...     tallies = voting.tally(groups)
        ...     [majority] = voting.decide(groups, tallies)
        ...     [soft] = voting.decide(groups, tallies, variant(voting.section, "soft"))
        >>> majority.rewards.tolist(), [round(value, 2) for value in soft.rewards.tolist()]
        ([1.0, 1.0, 0.0], [0.67, 0.67, 0.33])
    """

    def __init__(self, section: VotingSection | None = None, *, plugins: Sequence[str] = ()) -> None:
        """Bind the parts; starts no process yet.

        Args:
            section: how to vote; None is a run's default, with as many worker processes as there are cores.
            plugins: the user's modules, imported here and in the worker processes.

        Raises:
            ConfigError: unknown plug-ins, wrong options or contradictions.
        """
        self.section = default_section() if section is None else section
        self._plugins = tuple(plugins)
        self._tallier = Tallier(self.section, self._plugins)
        self._judges: dict[tuple[str, ...], Tallier] = {}
        self._loop: BackgroundLoop | None = None
        self._num_done = 0

    def vote(self, groups: Iterable[Group], juries: Sequence[Jury | None] | None = None) -> list[VotedGroup]:
        """Vote on groups.

        Args:
            groups: [P] of k completions each.
            juries: [P] who answers each prompt besides its group, for a label source that asks a jury.

        Returns:
            [P] in the same order.

        Raises:
            ConfigError: the rule needs tokens, and the groups are texts.
            ValueError: a group is empty, or not a group.
            VotingError: worker processes could not be started, or the vote hangs.
        """
        made = as_groups(groups)
        source = self.section.labels.name
        if source != "vote" and juries is None:
            raise ValueError(
                f"labels={source!r} takes its labels from a jury: give juries=[Jury(...), ...], one per group (None "
                "where there is none), or leave labels at 'vote'"
            )
        return self.decide(made, self.tally(made, juries))

    def tally(
        self,
        groups: Iterable[Group],
        juries: Sequence[Jury | None] | None = None,
        extractors: Sequence[str | None] | None = None,
    ) -> list[Tally]:
        """The first phase alone: read and compare answers. Raises as `vote`.

        Args:
            groups: [P]
            juries: [P] as in `vote`.
            extractors: [P] names that replace the section's extractor for a group.
        """
        made = as_groups(groups)
        entries = zip(made, extractors or [None] * len(made), juries or [None] * len(made), strict=True)

        async def work(entry: tuple[RolloutGroup, str | None, Jury | None]) -> Tally:
            return await self._tallier.tally(*entry)

        return self._each(list(entries), work)

    def decide(
        self,
        groups: Iterable[Group],
        tallies: Sequence[Tally],
        section: VotingSection | None = None,
        context: StepContext = NO_CONTEXT,
    ) -> list[VotedGroup]:
        """The other two phases: elect and pay. One batch of tallies can be decided by several rules.

        Args:
            groups: [P] those that were tallied.
            tallies: [P] as `tally` returned them.
            section: another one, with another rule or thresholds; it must read and compare answers in the same way.
            context: the step, for schedules, and what is known of the groups' prompts.

        Raises:
            ConfigError: the section needs entropies, and the tallies have none.
            ValueError: the section reads or compares in another way.
            Exception: as `vote`.
        """
        section = self.section if section is None else section
        changed = [name for name in READING if getattr(section, name) != getattr(self.section, name)]
        if changed:
            raise ValueError(f"the tallies were made with another {' and '.join(changed)}: make another Voting")
        made = as_groups(groups)
        rule, options = make_rule(section.rule)
        check_tokens(made, section.rule.name, options)
        weighed = [
            tally
            if (weights := tuple(rule.weigh(group, options))) == tally.weights
            else replace(tally, weights=weights)
            for group, tally in zip(made, tallies, strict=True)
        ]
        if section.train.entropy_iqr is not None and not all(tally.entropies for tally in weighed):
            raise ConfigError(
                "voting.train.entropy_iqr asks the learner for the entropies of completions, which only a run "
                "has at hand; leave it out (entropy_iqr=null)"
            )
        resolutions = resolve(weighed, section, context)
        votes = list(zip(made, weighed, resolutions, strict=True))
        kept = [vote for vote in votes if vote[2].end_state is None]
        scored = iter(self._pay(kept, rule, section))
        return [
            VotedGroup(tally, resolution, None if resolution.end_state else next(scored))
            for _, tally, resolution in votes
        ]

    def same(self, pairs: Iterable[tuple[str, str]]) -> list[bool]:
        """Whether the equivalence holds between two answers; what cannot be compared in time is not the same.

        An answer that the equivalence gives no key equals nothing, not even itself.
        """
        keys = [(self._tallier.key(first), self._tallier.key(second)) for first, second in pairs]
        unknown = {(min(one, other), max(one, other)) for one, other in keys if one is not None and other is not None}
        asked = sorted((one, other) for one, other in unknown if one != other)

        async def work(pair: tuple[str, str]) -> bool:
            return bool((await self._tallier.relate(pair)).pairs)

        verdicts = dict(zip(asked, self._each(asked, work), strict=True))
        return [
            one is not None and other is not None and (one == other or verdicts[min(one, other), max(one, other)])
            for one, other in keys
        ]

    def key(self, answer: str) -> str | None:
        """What an answer is compared as; None for one that can only abstain."""
        return self._tallier.key(answer)

    @property
    def pids(self) -> list[int]:
        """Worker processes that run now."""
        return [pid for tallier in (self._tallier, *self._judges.values()) for pid in tallier.pids]

    def close(self, timeout: float = 5.0) -> None:
        """End the worker processes, each pool within `timeout` seconds. They are started again when needed."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        talliers = (self._tallier, *self._judges.values())
        try:
            loop.cancel_all(timeout)
            loop.run(_stop(talliers, timeout), timeout * len(talliers) + START_SECONDS)
        except VotingError:  # the loop does not return: the processes must end all the same
            for tallier in talliers:
                tallier.stop(timeout)
        finally:
            loop.stop()

    def __enter__(self) -> Voting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pay(
        self, votes: Sequence[tuple[RolloutGroup, Tally, Resolution]], rule: VoteRule, section: VotingSection
    ) -> list[ScoredGroup]:
        if rule.judge is None:
            return [finish(reward(*vote, section)) for vote in votes]
        tallier = self._judge(rule, section)

        async def work(vote: tuple[RolloutGroup, Tally, Resolution]) -> ScoredGroup:
            return await tallier.run(reward(*vote, section))

        return self._each(votes, work)

    def _judge(self, rule: VoteRule, section: VotingSection) -> Tallier:
        """Whose worker processes a rule's own comparisons go to: ours where they hold what the rule needs."""
        own = {*make_equivalence(self.section.equivalence).preload, *make_rule(self.section.rule)[0].preload}
        if set(rule.preload) <= own:
            return self._tallier
        if rule.preload not in self._judges:
            self._judges[rule.preload] = Tallier(section, self._plugins)
        return self._judges[rule.preload]

    def _each(self, items: Sequence[S], work: Callable[[S], Coroutine[Any, Any, T]]) -> list[T]:
        if not items:
            return []
        self._loop = self._loop or BackgroundLoop()
        service = self.section.service
        return self._loop.run(
            each(items, work, service.max_open_groups, self._note_done),
            START_SECONDS + 2 * service.group_seconds,
            lambda: self._num_done,
        )

    def _note_done(self) -> None:
        self._num_done += 1


def vote(
    groups: Iterable[Group],
    section: VotingSection | None = None,
    *,
    rule: str | None = None,
    extractor: str | Plugin | None = None,
    equivalence: str | Plugin | None = None,
    plugins: Sequence[str] = (),
    juries: Sequence[Jury | None] | None = None,
    **options: Any,
) -> list[VotedGroup]:
    r"""Vote on groups: read the answers, cluster them, elect a pseudo-label, pay agreement with it.

    Args:
        groups: [P] completion texts of each prompt, or RolloutGroups. Together they are one batch.
        section: how to vote, as in a run's configuration; None is a run's default: boxed answers, exact equivalence,
            majority.
        rule: name of a vote rule; None keeps the section's.
        extractor: name, or name and options; None keeps the section's.
        equivalence: the same.
        plugins: modules with entries of your own.
        juries: [P] who answers each prompt besides its group.
        options: of the rule, of `voting.elect`, `voting.batch`, `voting.train`, or `truncated`; see
            `voting.variants.variant`. A name with a dot goes in as `**{"equivalence.strict": False}`.

    Returns:
        [P] in the same order.

    Raises:
        ConfigError: unknown names (with the nearest right one), wrong values and contradictions.
        ValueError: a group is empty, or not a group.
        VotingError: worker processes could not be started, or the vote hangs.

    Example:
        >>> vote([[r"so \boxed{7}", r"\boxed{7}", "I do not know"]], min_agreement=0.5)
        [VotedGroup(pseudo_label='7', agreement=0.667, margin=0.667, answers=('7', '7', None), rewards=[1.0, 1.0, 0.0])]
    """
    import_plugins(plugins)
    given = {"extractor": extractor, "equivalence": equivalence}
    changes = {name: value for name, value in given.items() if value is not None} | options
    with Voting(variant(section or default_section(), rule, changes), plugins=plugins) as voting:
        return voting.vote(groups, juries)


def default_section() -> VotingSection:
    """A run's defaults, with a worker process for every core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return VotingSection(service=VotingServiceSection(num_workers=cores))


async def _stop(talliers: Sequence[Tallier], timeout: float) -> None:
    for tallier in talliers:
        tallier.stop(timeout)
