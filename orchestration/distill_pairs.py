"""What a run's stored groups offer for offline training: majority completions, and pairs of most against least
consistent ones. Votes are taken as stored; no answer is read again, and no reference answer is read at all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.group_table import closed_files
from quorum.errors import DataError

_FIELDS = ("index", "token_ids", "finish_reason")
_COLUMNS = ("step", "branch", "group_id", "prompt_token_ids", "cluster", "sizes", "label_cluster", "provenance")


@dataclass(frozen=True, slots=True)
class VotedRow:
    """One stored group with its vote; k completions, C clusters."""

    branch: int
    group_id: int
    prompt: tuple[int, ...]
    """Token ids, as the policy was given them."""
    completions: tuple[tuple[int, ...], ...]
    """[k] token ids, as sampled."""
    is_whole: tuple[bool, ...]
    """[k] whether the completion ended by itself."""
    cluster: tuple[int, ...]
    """[k] -1 abstains."""
    sizes: tuple[int, ...]
    """[C] completions per cluster."""
    label_cluster: int
    """-1 where nobody was elected."""
    provenance: str


@dataclass(frozen=True, slots=True)
class Example:
    """One completion that agrees with its group's pseudo-label."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A completion with the most consistent answer against one with the least consistent, of one prompt."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    votes_chosen: int
    """Completions of the group with the chosen one's answer."""
    votes_rejected: int
    weight: float
    """(votes_chosen - votes_rejected) / k, w(x) of ScPO (arXiv 2411.04109, eq. 3)."""


@dataclass(slots=True)
class Selection:
    """What was taken from the groups, and why others gave nothing."""

    num_groups: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Groups without an example or a pair, by reason."""
    provenances: Counter[str] = field(default_factory=Counter)
    """Groups that gave one, by where their label came from."""


def read_voted(run_path: Path, steps: range | None = None) -> Iterator[VotedRow]:
    """Training groups of closed steps with their votes, in step order.

    Args:
        run_path: of the run.
        steps: which of them; None takes all.

    Raises:
        DataError: nothing is closed, or a file cannot be read.
    """
    files = closed_files(run_path)
    chosen = [step for step in sorted(files) if steps is None or step in steps]
    if not chosen:
        raise DataError(f"run {run_path} has no closed training step{'' if steps is None else f' in {steps}'}")
    columns = [*_COLUMNS, *(f"completions.list.element.{name}" for name in _FIELDS)]
    for step in chosen:
        path = files[step].path
        try:
            with pq.ParquetFile(path) as file:
                missing = sorted(set(_COLUMNS) - set(file.schema_arrow.names))
                if missing:
                    raise DataError(f"{path} was written by an earlier release: it has no column {', '.join(missing)}")
                for batch in file.iter_batches(batch_size=256, columns=columns):
                    yield from (_voted(row) for row in batch.to_pylist() if row["cluster"] is not None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as a group file: {error}") from error


def _voted(row: Mapping[str, Any]) -> VotedRow:
    completions = row["completions"]
    label = row["label_cluster"]
    return VotedRow(
        branch=row["branch"],
        group_id=row["group_id"],
        prompt=tuple(row["prompt_token_ids"]),
        completions=tuple(tuple(completion["token_ids"]) for completion in completions),
        is_whole=tuple(completion["finish_reason"] == "stop" for completion in completions),
        cluster=tuple(row["cluster"]),
        sizes=tuple(row["sizes"]),
        label_cluster=-1 if label is None else label,
        provenance=row["provenance"] or "",
    )


def majority_examples(rows: Iterable[VotedRow]) -> tuple[list[Example], Selection]:
    """Every whole completion whose answer is its group's pseudo-label, for supervised training.

    Completions that were cut at the limit are left out: their end was never sampled.
    """
    examples: list[Example] = []
    selection = Selection()
    for row in rows:
        selection.num_groups += 1
        own = _whole_of(row, [row.label_cluster]) if row.label_cluster >= 0 else []
        if not own:
            selection.left_out["no label" if row.label_cluster < 0 else "no whole completion with the label"] += 1
            continue
        selection.provenances[row.provenance] += 1
        examples += [Example(row.prompt, row.completions[i]) for i in own]
    return examples, selection


def preference_pairs(rows: Iterable[VotedRow], *, min_votes: int, seed: int) -> tuple[list[Pair], Selection]:
    """One pair per group: a completion with the pseudo-label against one with the answer that fewest gave.

    Completions without an answer are in no pair. Among several that could stand in a pair the seed and the group's
    identity decide, so the same groups give the same pairs whatever else is read.

    Args:
        rows: the groups.
        min_votes: a group gives a pair only where more than so many completions gave the chosen answer.
        seed: of the choice.
    """
    pairs: list[Pair] = []
    selection = Selection()
    for row in rows:
        selection.num_groups += 1
        made = _pair(row, min_votes, random.Random(f"{seed}/{row.branch}/{row.group_id}"))
        if isinstance(made, str):
            selection.left_out[made] += 1
            continue
        selection.provenances[row.provenance] += 1
        pairs.append(made)
    return pairs, selection


def _pair(row: VotedRow, min_votes: int, rng: random.Random) -> Pair | str:
    """The group's pair, or why it has none."""
    if row.label_cluster < 0:
        return "no label"
    most = row.sizes[row.label_cluster]
    if most <= min_votes:
        return "too few votes"
    others = [size for number, size in enumerate(row.sizes) if size and number != row.label_cluster]
    least = min(others, default=most)
    if not others or least >= most:
        return "all answers agree" if not others else "no answer is less consistent"
    rare = [number for number, size in enumerate(row.sizes) if size == least and number != row.label_cluster]
    candidates = _whole_of(row, [row.label_cluster]), _whole_of(row, rare)
    if not all(candidates):
        return "only cut completions"
    chosen, rejected = (rng.choice(options) for options in candidates)
    return Pair(
        prompt=row.prompt,
        chosen=row.completions[chosen],
        rejected=row.completions[rejected],
        votes_chosen=most,
        votes_rejected=least,
        weight=(most - least) / len(row.completions),
    )


def _whole_of(row: VotedRow, clusters: Sequence[int]) -> list[int]:
    """Completions of the clusters that ended by themselves."""
    return [i for i, cluster in enumerate(row.cluster) if cluster in clusters and row.is_whole[i]]
