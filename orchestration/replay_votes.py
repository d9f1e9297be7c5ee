"""A stored step's groups, voted on again, and what came out differently. Reads no reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from configs.schema import RunConfig, VotingSection
from orchestration.group_table import (
    VOTE_FIELDS,
    StepRecord,
    closed_files,
    group_at,
    read_file,
    tally_at,
    to_batch,
)
from orchestration.ledger import LedgerRow
from quorum.errors import DataError
from quorum.types import EndState, GroupScores, RolloutGroup, Tally, TrainingBatch
from voting.context import PromptPast, StepContext
from voting.groups import VotedGroup
from voting.library import Voting
from voting.rewards import receipt_of

_LABEL = ("label_cluster", "pseudo_label", "provenance", "agreement", "margin")
_REWARD = ("rewards", "train_mask", "kl_mask", "is_paid", "num_unjudged", "weight", "penalty")
_ANSWERS = tuple(name for name, _ in VOTE_FIELDS if name not in (*_LABEL, *_REWARD, "end_state"))
_PARTS = {"answers": _ANSWERS, "labels": _LABEL, "rewards": _REWARD, "end states": ("end_state",)}
"""What is compared, by the columns of a group file that hold it."""
_LATER = (
    "weights",
    "entropies",
    "self_certainties",
    "jury",
    "jury_provenance",
    "num_undecided_pairs",
    "label_cluster",
    "is_paid",
    "num_unjudged",
    "weight",
    "penalty",
)
"""Columns that files of earlier releases do not have: without any value they say nothing."""


@dataclass(frozen=True, slots=True)
class StoredStep:
    """The groups of one closed step; P of them."""

    step: int
    branch: int
    groups: tuple[RolloutGroup, ...]
    """[P] in the order they were voted on."""
    tallies: tuple[Tally, ...]
    """[P] as the run counted them."""
    rows: pa.Table
    """[P] of GROUP_SCHEMA, as stored."""

    @property
    def num_tokens(self) -> int:
        """Completion tokens of all groups."""
        return sum(len(completion.token_ids) for group in self.groups for completion in group.completions)


@dataclass(frozen=True, slots=True)
class VoteComparison:
    """How a second vote on one step compares with the stored one."""

    num_groups: int
    num_kept: int
    """Groups that the second vote trains on."""
    differing: Mapping[str, int]
    """Groups that differ in tokens (from the ledger), answers, labels, rewards, end states."""

    @property
    def is_equal(self) -> bool:
        return not any(self.differing.values())


def read_step(run_path: Path, step: int) -> StoredStep:
    """The groups of a step as they are stored, tokens bit for bit.

    Raises:
        DataError: the step is not closed, or its file cannot be read.
    """
    files = closed_files(run_path)
    if step not in files:
        raise DataError(f"run {run_path} holds no closed groups of step {step}")
    rows = read_file(files[step].path)
    tallies = [tally_at(rows, i) for i in range(len(rows))]
    voted = [i for i, tally in enumerate(tallies) if tally is not None]
    return StoredStep(
        step=step,
        branch=files[step].branch,
        groups=tuple(group_at(rows, i) for i in voted),
        tallies=tuple(tally for tally in tallies if tally is not None),
        rows=rows.take(voted),
    )


def stored_tallies_note(section: VotingSection) -> str | None:
    """What cannot be voted on again, in a sentence; None where everything can."""
    name = section.labels.name
    if name == "vote":
        return None
    return (
        f"labels came from elsewhere (voting.labels={name}): the stored tallies, with that jury's answers, are elected "
        "from and paid again, but no answer is read or compared again"
    )


def vote_again(
    stored: StoredStep,
    voting: Voting,
    section: VotingSection,
    extractors: Mapping[str, str],
    scores: Sequence[GroupScores] = (),
    pasts: Sequence[PromptPast] = (),
) -> list[VotedGroup]:
    """Read, compare, elect and pay once more; where a jury decided, elect and pay alone.

    Args:
        stored: P groups.
        voting: with the run's reading of answers.
        section: how to vote.
        extractors: by prompt id, where the data names one.
        scores: [P] of the groups, where the rule asks for them.
        pasts: [P] of the groups' prompts, where the vote asks for them.

    Returns:
        [P] in the same order.
    """
    if section.labels.name == "vote":
        tallies = voting.tally(stored.groups, extractors=[extractors.get(g.prompt_id) for g in stored.groups])
    else:
        tallies = list(stored.tallies)
    context = StepContext(stored.step, pasts)
    if not scores:
        return voting.decide(stored.groups, tallies, context=context)
    known = list(zip(stored.groups, tallies, scores, strict=True))
    return voting.decide(
        [replace(group, scores=score) for group, _, score in known],
        [replace(tally, entropies=s.entropies, self_certainties=s.self_certainties) for _, tally, s in known],
        context=context,
    )


def batch_of(stored: StoredStep, votes: Sequence[VotedGroup]) -> TrainingBatch:
    """What the learner is given: the groups that the second vote keeps."""
    scored = [vote.scored for vote in votes if vote.scored is not None]
    return TrainingBatch(
        step=stored.step,
        branch=stored.branch,
        groups=tuple(scored),
        receipts=tuple(receipt_of(group) for group in scored),
    )


def compare_votes(
    stored: StoredStep, votes: Sequence[VotedGroup], ledger: Mapping[tuple[int, int], LedgerRow]
) -> VoteComparison:
    """Count the groups that came out differently.

    Args:
        stored: P groups with their stored votes.
        votes: [P] the second vote.
        ledger: the run's, by (branch, group id); a group that is missing in it counts as other tokens.
    """
    records = [
        StepRecord(group.key, vote.tally, vote.resolution, vote.end_state or EndState.TRAINED)
        for group, vote in zip(stored.groups, votes, strict=True)
    ]
    objects = [vote.scored or group for group, vote in zip(stored.groups, votes, strict=True)]
    again = pa.Table.from_batches([to_batch(stored.step, 0, objects, records)])
    differing = {
        "tokens": sum(
            (row := ledger.get((group.branch, group.group_id))) is None or row.tokens_hash != group.content_hash()
            for group in stored.groups
        )
    }
    for part, columns in _PARTS.items():
        known = [name for name in columns if name not in _LATER or _has_values(stored.rows, name)]
        before, after = (table.select(known).to_pylist() for table in (stored.rows, again))
        differing[part] = sum(one != other for one, other in zip(before, after, strict=True))
    kept = sum(vote.scored is not None for vote in votes)
    return VoteComparison(len(stored.groups), kept, differing)


def open_voting(config: RunConfig) -> Voting:
    """The voting library as the run configured its replicas."""
    return Voting(config.voting, plugins=config.run.plugins)


def _has_values(rows: pa.Table, name: str) -> bool:
    return bool(rows.column(name).null_count < len(rows))
