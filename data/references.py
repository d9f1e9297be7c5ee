"""The hidden answers: read apart from the prompts, used by evaluation and audit only.

A label leaves this module in one way: the `Dispenser` issues it as a `RevealedLabel`, and counts it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema import DataSource
from data.columns import ANSWER_COLUMNS, MISSING, lookup, require, row_key, top_level
from data.prompts import source_identities
from data.rows import read_rows
from quorum.types import prompt_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealedLabel:
    """A reference answer that the configuration allowed out."""

    prompt_id: str
    answer: str
    provenance: str
    """Where it came from: "ground_truth"."""


class References:
    """Reference answer of each prompt id. Picklable, so that the audit process can be given it."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = dict(answers)

    def get(self, prompt_id: str) -> str | None:
        """The answer, or None where the data has none."""
        return self._answers.get(prompt_id)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"References({len(self)} answers)"


class Dispenser:
    """The one place that issues labels, for the prompts it was told to and no others."""

    def __init__(self, references: References, prompt_ids: Iterable[str] = ()) -> None:
        self._references = references
        self._allowed = frozenset(prompt_ids)
        self._revealed: set[str] = set()

    @property
    def num_revealed(self) -> int:
        """Prompts whose label has left so far; a metric of the run."""
        return len(self._revealed)

    def reveal(self, prompt_id: str) -> RevealedLabel | None:
        """The label of a prompt, or None when it may not be given out or the data has none."""
        answer = self._references.get(prompt_id) if prompt_id in self._allowed else None
        if answer is None:
            return None
        self._revealed.add(prompt_id)
        return RevealedLabel(prompt_id=prompt_id, answer=answer, provenance="ground_truth")


def load_references(sources: Sequence[DataSource]) -> References:
    """Read the answers of all sources, from the files, apart from the prompts.

    Without `columns.answer` the names of `ANSWER_COLUMNS` are tried, and rows without any have no reference.

    Raises:
        DataError: a source cannot be read, or a configured answer column is missing or empty.
    """
    answers: dict[str, str] = {}
    for source, identity in zip(sources, source_identities(sources), strict=True):
        configured = source.columns.answer
        names = (configured,) if configured else ANSWER_COLUMNS
        wanted = top_level([*names, *([source.columns.id] if source.columns.id else [])])
        for row in read_rows(source, wanted):
            value = require(row, configured, "answer") if configured else _first_there(row.values, names)
            if value is not None:
                answers[prompt_id_of(identity, row_key(row, source))] = _as_text(value)
    return References(answers)


def _first_there(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = (lookup(values, name) for name in names)
    return next((value for value in found if value is not MISSING and value is not None), None)


def _as_text(value: Any) -> str:
    """Answers are compared as text; numbers and lists become JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
