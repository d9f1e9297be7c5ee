"""What a group's label is made of besides its own answers, brought together before the group is tallied.

`voting.sources` says who votes; here the jurors are found: a revealed label, the group of the other view, a teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from data.references import REVEAL, Dispenser, is_drawn, load_label_table, load_references
from quorum.errors import ConfigError, DataError
from quorum.types import GroupKey, GroupScores, Prompt, RevealedLabel, Role, SamplingSettings
from voting.replicas import Ticket
from voting.rules import make_rule
from voting.service import VotingService
from voting.sources import AverageTeacherOptions, GroundTruthOptions, TableOptions, TeacherOptions, make_source


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that answers the training prompts too."""

    model: str
    num_samplers: int
    sampling: SamplingSettings
    prompts: Mapping[str, Prompt] | None = None
    """By prompt id, as its own tokenizer reads them; None: the policy's."""
    is_average: bool = False
    """Whether it follows the policy as its moving average; otherwise its weights stay those of `model`."""

    def prompt_for(self, prompt: Prompt) -> Prompt | None:
        """What it is asked; None where its rendering of the prompt is too long for it."""
        return prompt if self.prompts is None else self.prompts.get(prompt.prompt_id)


def teacher_of(config: RunConfig, prompts: Mapping[str, Prompt] | None = None) -> Teacher | None:
    """The teacher that the configuration asks for, if any."""
    _, options = make_source(config.voting.labels)
    if not isinstance(options, TeacherOptions | AverageTeacherOptions):
        return None
    sampling = SamplingSettings(
        num_completions=options.num_completions,
        temperature=options.temperature,
        top_p=1.0,
        max_completion_tokens=config.rollout.max_completion_tokens,
        stop=config.rollout.stop,
    )
    if isinstance(options, AverageTeacherOptions):
        return Teacher(config.model.path, options.num_samplers, sampling, is_average=True)
    return Teacher(options.model or config.model.path, options.num_samplers, sampling, prompts)


def needs_pairs(config: RunConfig) -> bool:
    """Whether the two views of a prompt must come in one step."""
    return make_source(config.voting.labels)[0].supply == "views"


def check_pairs(config: RunConfig) -> None:
    """Refuse what would part the two views of a prompt, whose groups stand side by side: each would lack its jury.

    Raises:
        ConfigError: a step or a further round of drawing may take an odd number of groups.
    """
    if not needs_pairs(config):
        return
    name, count = config.voting.labels.name, config.rollout.prompts_per_step
    problems = []
    if count % 2:
        problems.append(
            f"voting.labels={name} needs both views of a prompt in one step, and "
            f"rollout.prompts_per_step={count} is odd; use {count + 1}"
        )
    if config.voting.batch.max_rounds > 1:
        problems.append(
            f"voting.labels={name} needs both views of a prompt in one step, and voting.batch.max_rounds draws single "
            "groups for those that were dropped; set it to 1"
        )
    if problems:
        raise ConfigError(problems)


def needs_scores(config: RunConfig) -> bool:
    """Whether the learner scores the groups of a step before they vote."""
    rule, options = make_rule(config.voting.rule)
    return config.voting.train.entropy_iqr is not None or bool(rule.needs_scores(options))


def make_dispenser(config: RunConfig, prompts: Sequence[Prompt]) -> Dispenser | None:
    """Issues the labels that the configuration reveals; None where it reveals none. Reads references only then.

    Raises:
        DataError: nothing of what it names has a label.
    """
    _, options = make_source(config.voting.labels)
    if isinstance(options, TableOptions):
        table = load_label_table(options.path, options.min_agreement)
        ids = [prompt.prompt_id for prompt in prompts]
        dispenser = Dispenser(table, ids, provenance="table", noise=options.noise, seed=options.seed)
        where = f"{options.path} has no label for any training prompt; was it made from other data?"
    elif isinstance(options, GroundTruthOptions):
        ids = [
            prompt.prompt_id
            for prompt in prompts
            if is_drawn(prompt.prompt_id, options.share.greatest, options.seed, REVEAL)
            and (not options.data_sources or prompt.data_source in options.data_sources)
        ]
        references = load_references(config.data.train)
        dispenser = Dispenser(references, ids, noise=options.noise, seed=options.seed, share=options.share)
        where = "no chosen training prompt has a reference answer; name their column (data.train.N.columns.answer)"
    else:
        return None
    if not dispenser.num_allowed:
        raise DataError(f"voting.labels={config.voting.labels.name}: {where}")
    return dispenser


@dataclass
class TallyDesk:
    """Starts the tally of each group once everything that it needs is there.

    consumes: finished groups.  waits for: a group's jurors.  unblocked by: the last of them.  produces: tickets.
    """

    config: RunConfig
    voting: VotingService
    dispenser: Dispenser | None
    tickets: dict[GroupKey, Ticket] = field(default_factory=dict)
    """By group: the answer is its Tally."""
    _groups: dict[GroupKey, Any] = field(default_factory=dict)
    _extractors: dict[GroupKey, str | None] = field(default_factory=dict)
    _tallied: set[GroupKey] = field(default_factory=set)
    _scores: dict[GroupKey, GroupScores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._source, _ = make_source(self.config.voting.labels)

    def add(
        self,
        key: GroupKey,
        prompt: Prompt,
        group_ref: Any,
        *,
        is_tallied: bool = False,
        scores: GroupScores | None = None,
    ) -> None:
        """A group is finished: start its tally unless it was tallied before, and those that waited for it."""
        if scores is not None:
            self._scores[key] = scores
        self._groups[key], self._extractors[key] = group_ref, prompt.extractor
        if is_tallied:
            self._tallied.add(key)
        supply = self._source.supply if key.role in (Role.TRAIN, Role.TEACHER) else "none"
        if supply == "views":
            other = key._replace(group_id=key.group_id ^ 1)
            self._start_judged(key, other)
            self._start_judged(other, key)
        elif supply == "teacher":
            self._start_judged(key._replace(role=Role.TRAIN), key._replace(role=Role.TEACHER))
        elif not is_tallied:
            label = self._revealed(key, prompt) if supply == "revealed" else None
            self.tickets[key] = self.voting.tally(
                group_ref,
                prompt.extractor,
                provenance=label.provenance if label else "",
                revealed=(label,) if label else (),
                scores=self._scores.get(key),
            )

    def _revealed(self, key: GroupKey, prompt: Prompt) -> RevealedLabel | None:
        """By the group's number, never by when it is tallied: a resumed run reveals the same."""
        step = key.group_id // self.config.rollout.prompts_per_step
        return None if self.dispenser is None else self.dispenser.reveal(prompt.prompt_id, step)

    def close(self, keys: Sequence[GroupKey]) -> None:
        """No juror comes any more for these groups: those that still wait for one are tallied without."""
        for key in keys:
            if key.role is not Role.TEACHER and key not in self.tickets and key not in self._tallied:
                group_ref, extractor = self._groups[key], self._extractors[key]
                self.tickets[key] = self.voting.tally(group_ref, extractor, scores=self._scores.get(key))

    def forget(self, keys: Sequence[GroupKey]) -> None:
        """These groups are done with."""
        for key in keys:
            for held in (self.tickets, self._groups, self._extractors, self._scores):
                held.pop(key, None)  # type: ignore[attr-defined]
            self._tallied.discard(key)

    def _start_judged(self, key: GroupKey, jury: GroupKey) -> None:
        is_due = key not in self.tickets and key not in self._tallied
        if is_due and key in self._groups and jury in self._groups:
            self.tickets[key] = self.voting.tally(
                self._groups[key],
                self._extractors[key],
                provenance=self.config.voting.labels.name,
                jury_refs=(self._groups[jury],),
                scores=self._scores.get(key),
            )
