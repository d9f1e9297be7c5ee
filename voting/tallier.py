"""The tally and reward phases with everything they need: extractors, equivalence, worker processes, memory.

Used by voting replicas on their event loop, and through `voting.library` without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from configs.load import import_plugins
from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import GroupScores, Resolution, RolloutGroup, ScoredGroup, Tally
from voting.asking import Asker, Steps
from voting.equivalence import Pairwise, Relation, make_equivalence
from voting.extract import BoundExtractor, make_extractor
from voting.resolve import check
from voting.rewards import reward
from voting.rules import make_rule
from voting.sources import make_source
from voting.stopping import is_decided
from voting.tally import Finished, Jury, tally
from voting.workers import START_SECONDS, WorkerPool

T = TypeVar("T")


class Tallier:
    """Tallies and rewards single groups, any number of them at a time. Holds memories, but no state that decides.

    Example:
        tallier = Tallier(section)
        tallies = await asyncio.gather(*(tallier.tally(group) for group in groups))
        scored = await tallier.reward(groups[0], tallies[0], resolve(tallies, section)[0])
        tallier.stop()
    """

    def __init__(self, section: VotingSection, plugins: Sequence[str] = ()) -> None:
        """Bind the parts; starts no process yet.

        Args:
            section: extractor, equivalence, rule, limits.
            plugins: the user's modules, imported first, here and in the worker processes.

        Raises:
            ConfigError: unknown plug-ins or wrong options.
        """
        import_plugins(plugins)
        problems = check(section)
        if problems:
            raise ConfigError(problems)
        self._section = section
        self._rule, self._rule_options = make_rule(section.rule)
        self._source, _ = make_source(section.labels)
        self._extractors: dict[str, BoundExtractor] = {section.extractor.name: make_extractor(section.extractor)}
        self._equivalence = make_equivalence(section.equivalence)
        self._pool = WorkerPool(
            num_workers=section.service.num_workers,
            cpu_seconds=section.service.cpu_seconds,
            preload=tuple(dict.fromkeys(("voting.extract", *self._equivalence.preload, *self._rule.preload, *plugins))),
        )
        self._asker = Asker(self._pool)

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start the worker processes where the equivalence will surely need them; otherwise the first need does.

        Raises:
            VotingError: they did not start within `timeout` seconds.
        """
        is_linear = all(extract.is_linear for extract in self._extractors.values())
        needs_workers = isinstance(self._equivalence, Pairwise) or not is_linear
        if self._equivalence.preload or self._rule.preload or needs_workers:
            self._pool.start(timeout)

    def stop(self, timeout: float = 5.0) -> None:
        """End the worker processes within `timeout` seconds."""
        self._pool.stop(timeout)

    @property
    def pids(self) -> list[int]:
        """Worker processes that run now."""
        return self._pool.pids

    @property
    def pool(self) -> WorkerPool:
        return self._pool

    async def tally(
        self,
        group: RolloutGroup,
        extractor: str | None = None,
        jury: Jury | None = None,
        scores: GroupScores | None = None,
    ) -> Tally:
        """First phase for one group.

        Args:
            group: k completions.
            extractor: name that replaces the configured one for this prompt; its options are the defaults.
            jury: who answers besides the group; the configured source says whether it decides alone.
            scores: of the group's completions, where the rule asks for them.

        Raises:
            ConfigError: no extractor is called so.
            VotingError: worker processes could not be replaced.
        """
        steps = tally(
            group,
            self._extractor(extractor),
            self._equivalence,
            truncated=self._section.truncated,
            jury=jury,
            jury_alone=self._source.electorate == "jury",
        )
        made = await self.run(steps)
        weights = self._rule.weigh(replace(group, scores=scores), self._rule_options)
        if scores is not None:
            made = replace(made, entropies=scores.entropies, self_certainties=scores.self_certainties)
        return replace(made, weights=weights) if weights else made

    async def decided(self, finished: Sequence[Finished], num_completions: int, extractor: str | None = None) -> bool:
        """Whether the label of a group is certain, whatever its completions that have not finished will answer.

        Pure: asked again with more of them finished, it stays True.

        Args:
            finished: completions of the group that have ended, in any order.
            num_completions: k, all that the group will have.
            extractor: as in `tally`.

        Raises:
            ConfigError: no extractor is called so.
            VotingError: worker processes could not be replaced.
        """
        steps = is_decided(finished, num_completions, self._section, self._extractor(extractor), self._equivalence)
        return await self.run(steps)

    async def reward(self, group: RolloutGroup, tally: Tally, resolution: Resolution) -> ScoredGroup:
        """Third phase for one group."""
        return await self.run(reward(group, tally, resolution, self._section))

    async def relate(self, answers: Sequence[str]) -> Relation:
        """How answers relate whose keys are distinct and sorted; see `Equivalence.relate`."""
        return await self.run(self._equivalence.relate(answers))

    async def run(self, steps: Steps[T]) -> T:
        """What any steps return, within `service.group_seconds` and with these worker processes."""
        return await self._asker.run(steps, self._section.service.group_seconds)

    def _extractor(self, name: str | None) -> BoundExtractor:
        name = name or self._section.extractor.name
        if name not in self._extractors:
            self._extractors[name] = make_extractor(Plugin(name=name))
        return self._extractors[name]

    def key(self, answer: str) -> str | None:
        """See `Equivalence.key`."""
        return self._equivalence.key(answer)
