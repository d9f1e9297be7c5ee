"""The hidden answers: read apart from the prompts, used by evaluation and audit, and by a run that is told to use them.

A label leaves this module in one way: the `Dispenser` issues it as a `RevealedLabel`, and counts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configs.schema import DataSource, Ramp
from data.columns import ANSWER_COLUMNS, MISSING, lookup, require, row_key, top_level
from data.prepared import ANSWER_COLUMN, resolved
from data.prompts import source_identities, view_id
from data.rows import read_rows
from quorum.errors import DataError
from quorum.types import RevealedLabel

LABEL_COLUMNS = ("prompt_id", "label", "agreement")
"""Of a table of labels, as `quorum label` writes it."""


REVEAL = "reveal"
"""Purpose of the draw that says whose label is revealed."""


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

    def __init__(
        self,
        references: References,
        prompt_ids: Iterable[str] = (),
        *,
        provenance: str = "ground_truth",
        noise: float = 0.0,
        seed: int = 0,
        share: Ramp | None = None,
    ) -> None:
        """Keep the answers of the prompts that may be revealed; all others are forgotten here.

        Args:
            references: answers.
            prompt_ids: prompts whose answers may leave.
            provenance: stored with every label.
            noise: share of them whose answer is replaced by that of another one of them.
            seed: decides which.
            share: of all prompts, drawn by seed, whose label is revealed in a step; None: all that are allowed. What
                a smaller share reveals, a greater one does too.
        """
        allowed = sorted({prompt_id for prompt_id in prompt_ids if references.get(prompt_id) is not None})
        answers = {prompt_id: str(references.get(prompt_id)) for prompt_id in allowed}
        self._answers = _with_noise(answers, noise, seed)
        self._provenance, self._share, self._seed = provenance, share, seed
        self._revealed: set[str] = set()

    @property
    def num_allowed(self) -> int:
        """Prompts whose label may be revealed."""
        return len(self._answers)

    @property
    def num_revealed(self) -> int:
        """Prompts whose label has left so far; a metric of the run."""
        return len(self._revealed)

    def reveal(self, prompt_id: str, step: int = 0) -> RevealedLabel | None:
        """The label of a prompt, or None when it may not be given out in a step or the data has none."""
        answer = self._answers.get(prompt_id)
        if answer is None:
            return None
        if self._share is not None and not is_drawn(prompt_id, self._share.at(step), self._seed, REVEAL):
            return None
        self._revealed.add(prompt_id)
        return RevealedLabel(prompt_id=prompt_id, answer=answer, provenance=self._provenance)


def is_drawn(prompt_id: str, share: float, seed: int, purpose: str) -> bool:
    """Whether a prompt is among a random `share` of all, by seed and purpose and nothing else."""
    digest = hashlib.blake2b(f"{purpose}/{seed}/{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _with_noise(answers: dict[str, str], noise: float, seed: int) -> dict[str, str]:
    """The answers, a share of them replaced by the next prompt's that differs (in a drawn order)."""
    if not noise:
        return answers
    drawn = sorted(answers, key=lambda prompt_id: hashlib.blake2b(f"{seed}/{prompt_id}".encode()).digest())
    noisy = dict(answers)
    for place, prompt_id in enumerate(drawn):
        if is_drawn(prompt_id, noise, seed, "noise"):
            others = (answers[drawn[(place + step) % len(drawn)]] for step in range(1, len(drawn)))
            noisy[prompt_id] = next((answer for answer in others if answer != answers[prompt_id]), answers[prompt_id])
    return noisy


def load_references(sources: Sequence[DataSource]) -> References:
    """Read the answers of all sources, from the files, apart from the prompts. A paraphrase has its prompt's answer.

    Where a source names a file of references they are read from there, by the id column. Without `columns.answer` the
    names of `ANSWER_COLUMNS` are tried, and rows without any have no reference.

    Raises:
        DataError: a source cannot be read, or a configured answer column is missing or empty; references in a file of
            their own without a configured id column.
    """
    answers: dict[str, str] = {}
    for given, identity in zip(sources, source_identities(sources), strict=True):
        source = _answers_of(resolved(given))
        configured = source.columns.answer
        names = (configured,) if configured else ANSWER_COLUMNS
        wanted = top_level([*names, *([source.columns.id] if source.columns.id else [])])
        for row in read_rows(source, wanted):
            value = require(row, configured, "answer") if configured else _first_there(row.values, names)
            if value is not None:
                for is_paraphrase in (False, True) if source.columns.paraphrase else (False,):
                    answers[view_id(identity, row_key(row, source), is_paraphrase=is_paraphrase)] = _as_text(value)
    return References(answers)


def _answers_of(source: DataSource) -> DataSource:
    """Where the answers of a source are: in a file of their own, or the source itself."""
    if source.references is None:
        return source
    if source.columns.id is None:
        raise DataError(
            f"{source.path}: references in a file of their own ({source.references}) are joined by id; name the id "
            "column of both files (columns.id)"
        )
    names = {"id": source.columns.id, "answer": source.columns.answer or ANSWER_COLUMN}
    columns = source.columns.model_copy(update=names)
    return DataSource(path=source.references, columns=columns)


def load_label_table(path: str, min_agreement: float = 0.0) -> References:
    """Labels of a table that `quorum label` made, by prompt id; those of lower agreement are left out.

    Raises:
        DataError: not readable, or a column is missing.
    """
    return References(
        {
            row["prompt_id"]: row["label"]
            for row in _label_rows(path)
            if row["label"] is not None and (row["agreement"] or 0.0) >= min_agreement
        }
    )


def load_agreements(path: str) -> dict[str, float]:
    """Agreement by prompt id of a table that `quorum label` made; 0 where nobody was elected.

    Raises:
        DataError: not readable, or a column is missing.
    """
    return {row["prompt_id"]: float(row["agreement"] or 0.0) for row in _label_rows(path)}


def _label_rows(path: str) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        missing = [name for name in LABEL_COLUMNS if name not in names]
        if missing:
            raise DataError(
                f"{path}: a table of labels has columns {', '.join(LABEL_COLUMNS)}, this one lacks "
                f"{', '.join(missing)} (it has {', '.join(names)}); make one with `quorum label`"
            )
        rows: list[dict[str, Any]] = parquet.read_table(path, columns=list(LABEL_COLUMNS)).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a Parquet table of labels: {error}") from error
    return rows


def _first_there(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = (lookup(values, name) for name in names)
    return next((value for value in found if value is not MISSING and value is not None), None)


def _as_text(value: Any) -> str:
    """Answers are compared as text; numbers and lists become JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
