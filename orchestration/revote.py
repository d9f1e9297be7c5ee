"""Votes again on stored groups by several rules, and says how they compare. Needs no model, Ray or torch.

Answers are read and compared once for all rules that do so alike. Reference answers come in at the very end, through
`measure`, when every vote is made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import pyarrow as pa

from configs.load import load_config
from configs.schema import VotingSection
from configs.yaml_text import YamlError, read_yaml
from data.references import References
from orchestration.group_table import StepRecord, to_batch
from orchestration.stored_rollouts import Rollouts
from orchestration.watch.audit_scores import label_metrics
from orchestration.watch.evaluate import score_rows
from orchestration.watch.grade import Grader
from orchestration.watch.vote_metrics import vote_metrics
from quorum.errors import ConfigError
from quorum.types import EndState, RolloutGroup
from voting.groups import VotedGroup, check_tokens
from voting.library import READING, Voting, default_section
from voting.novelty import NoveltyOptions
from voting.rules import VoteRule, WeightOptions, make_rule
from voting.rules import weigh as weigh_by_option
from voting.variants import variant

OUT_SCHEMA = pa.schema(
    [
        ("rule", pa.string()),
        ("step", pa.int64()),
        ("branch", pa.int32()),
        ("group_id", pa.int64()),
        ("prompt_id", pa.string()),
        ("pseudo_label", pa.string()),
        ("agreement", pa.float64()),
        ("margin", pa.float64()),
        ("rewards", pa.list_(pa.float32())),
        ("end_state", pa.string()),
    ]
)
"""One row per rule and group; `rewards` is null and `end_state` says why where the group leaves the batch."""
_NO_WEIGHTS = next(entry.default for entry in fields(VoteRule) if entry.name == "weigh")


@dataclass(frozen=True, slots=True)
class RuleChoice:
    """One `--rule`."""

    text: str
    """As given; names the rule in what is printed."""
    section: VotingSection
    """How it votes."""
    has_extractor: bool
    """Whether it names an extractor, which then reads every prompt's completions."""


@dataclass(frozen=True, slots=True)
class RuleVotes:
    """What one rule made of all groups."""

    choice: RuleChoice
    votes: list[VotedGroup]
    """[P]"""
    seconds: float
    """What the rule alone takes: reading and comparing answers, electing, paying."""


def parse_rules(texts: Sequence[str], base: VotingSection) -> list[RuleChoice]:
    """Read every `NAME[,option=value ...]`; `preset=NAME` takes what is not said from another configuration.

    Args:
        texts: as given; a value is YAML, and a comma inside brackets or quotes belongs to it.
        base: what is kept where a rule says nothing; its own rule where there are no texts.

    Raises:
        ConfigError: everything that is wrong with any of them.
    """
    if not texts:
        return [RuleChoice(base.rule.name, variant(base), has_extractor=False)]
    choices, problems = [], [f"--rule {text}: given twice" for text in sorted(set(texts)) if texts.count(text) > 1]
    for text in dict.fromkeys(texts):
        try:
            choices.append(_parse_rule(text, base))
        except ConfigError as error:
            problems += [f"--rule {text}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return choices


def _parse_rule(text: str, base: VotingSection) -> RuleChoice:
    name, *parts = [part.strip() for part in split_options(text)]
    if not name or "=" in name:
        raise ConfigError("it starts with the name of a rule, as in majority,min_agreement=0.5")
    options: dict[str, Any] = {}
    problems = []
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            problems.append(f"expected option=value, got {part!r}")
        elif key in options:
            problems.append(f"{key} is set twice")
        elif key.partition(".")[0] == "labels":
            problems.append("stored groups hold no answers of a jury: the groups vote themselves, without labels=...")
        else:
            try:
                options[key] = read_yaml(value) if value.strip() else ""
            except YamlError as error:
                problems += [f"{key}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    preset = options.pop("preset", None)
    if preset is not None:
        base = _preset(str(preset), base)
    is_preset_rule = preset is not None and base.rule.name == name
    section = variant(base, None if is_preset_rule else name, options)
    return RuleChoice(text, section, has_extractor=preset is not None or "extractor" in options)


def _preset(name: str, base: VotingSection) -> VotingSection:
    """How another configuration votes, with the limits and worker processes of this one."""
    voting = load_config(name).voting
    return voting.model_copy(update={"labels": base.labels, "service": base.service})


def split_options(text: str) -> Iterator[str]:
    """Parts between the commas that stand outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def needs_tokens(choices: Sequence[RuleChoice]) -> bool:
    """Whether a vote may depend on tokens; in a rule whose weights or rewards are a user's function of them it may."""
    for choice in choices:
        rule, options = make_rule(choice.section.rule)
        if isinstance(options, WeightOptions) and rule.weigh is weigh_by_option:
            if options.weight != "one":
                return True
        elif rule.weigh is not _NO_WEIGHTS:
            return True
        if isinstance(options, NoveltyOptions):
            if options.unit == "tokens":
                return True
        elif rule.refine is not None:
            return True
    return False


def compare(rollouts: Rollouts, choices: Sequence[RuleChoice], plugins: Sequence[str] = ()) -> list[RuleVotes]:
    """Vote on all groups by every rule; the groups of one step are one batch.

    Args:
        rollouts: P groups.
        choices: the rules.
        plugins: the user's modules.

    Returns:
        In the order of `choices`.

    Raises:
        ConfigError: a rule needs tokens, and there are none.
        VotingError: worker processes could not be started.
    """
    for choice in choices:
        check_tokens(rollouts.groups, choice.section.rule.name, make_rule(choice.section.rule)[1])
    by_reading: dict[str, list[RuleChoice]] = {}
    for choice in choices:
        reading = choice.section.model_dump_json(include=set(READING))
        by_reading.setdefault(f"{choice.has_extractor} {reading}", []).append(choice)
    found = {made.choice.text: made for alike in by_reading.values() for made in _vote(rollouts, alike, plugins)}
    return [found[choice.text] for choice in choices]


def _vote(rollouts: Rollouts, choices: Sequence[RuleChoice], plugins: Sequence[str]) -> Iterator[RuleVotes]:
    """Vote by rules that read and compare alike."""
    host = next((choice for choice in choices if make_rule(choice.section.rule)[0].preload), choices[0])
    workers = default_section().service.num_workers
    service = host.section.service.model_copy(update={"num_workers": workers})
    with Voting(host.section.model_copy(update={"service": service}), plugins=plugins) as voting:
        began = time.perf_counter()
        extractors = None if host.has_extractor else rollouts.extractors
        tallies = voting.tally(rollouts.groups, extractors=extractors)
        reading_seconds = time.perf_counter() - began
        for choice in choices:
            began = time.perf_counter()
            votes = [
                vote
                for places in _batches(rollouts)
                for vote in voting.decide(
                    [rollouts.groups[i] for i in places], [tallies[i] for i in places], choice.section
                )
            ]
            yield RuleVotes(choice, votes, reading_seconds + time.perf_counter() - began)


def _batches(rollouts: Rollouts) -> Iterator[list[int]]:
    """Places of each batch's groups, which stand together."""

    def batch_of(place: int) -> tuple[object, ...]:
        group: RolloutGroup = rollouts.groups[place]
        return rollouts.steps[place], group.branch, group.role

    for _, places in groupby(range(len(rollouts.groups)), key=batch_of):
        yield list(places)


def measure(
    made: RuleVotes, rollouts: Rollouts, references: References | None = None, grader: Grader | None = None
) -> dict[str, float | int | None]:
    """How a rule did.

    Args:
        made: its votes.
        rollouts: the groups voted on.
        references: reference answers by prompt id.
        grader: compares with them.

    Returns:
        num_groups; shares labelled, kept and abstained (of completions), agreement (mean, 0 where nobody was elected)
        and distinct_answers (mean), as the vote/* metrics of a run; label_accuracy and reward_accuracy as its audit/*
        metrics, None where nothing can be compared; seconds.
    """
    tallies, resolutions = [vote.tally for vote in made.votes], [vote.resolution for vote in made.votes]
    metrics = vote_metrics(tallies, resolutions, [])
    accuracy: dict[str, float | None] = {}
    if references is not None and grader is not None and len(references):
        accuracy = label_metrics(score_rows(_scored_rows(made, rollouts), references, grader))
    return {
        "num_groups": len(tallies),
        "labelled": sum(vote.pseudo_label is not None for vote in made.votes) / len(made.votes),
        "kept": metrics["vote/kept_share"],
        "agreement": metrics["vote/agreement_mean"],
        "label_accuracy": accuracy.get("audit/label_accuracy"),
        "reward_accuracy": accuracy.get("audit/reward_accuracy"),
        "abstained": metrics["vote/abstain_share"],
        "distinct_answers": metrics["vote/distinct_answers_per_prompt"],
        "seconds": made.seconds,
    }


def _scored_rows(made: RuleVotes, rollouts: Rollouts) -> pa.Table:
    """The votes as the rows of a group file, which is what the audit scores."""
    records = [
        StepRecord(group.key, vote.tally, vote.resolution, vote.end_state or EndState.TRAINED)
        for group, vote in zip(rollouts.groups, made.votes, strict=True)
    ]
    objects: list[Any] = [vote.scored or group for group, vote in zip(rollouts.groups, made.votes, strict=True)]
    return pa.Table.from_batches([to_batch(0, 0, objects, records)])


def votes_table(made: Sequence[RuleVotes], rollouts: Rollouts) -> pa.Table:
    """Rows of OUT_SCHEMA: every rule's votes, rule by rule."""
    rows = [
        {
            "rule": one.choice.text,
            "step": step,
            "branch": group.branch,
            "group_id": group.group_id,
            "prompt_id": group.prompt_id,
            "pseudo_label": vote.pseudo_label,
            "agreement": vote.agreement,
            "margin": vote.margin,
            "rewards": None if vote.scored is None else vote.rewards,
            "end_state": vote.end_state.value if vote.end_state else None,
        }
        for one in made
        for step, group, vote in zip(rollouts.steps, rollouts.groups, one.votes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=OUT_SCHEMA)
