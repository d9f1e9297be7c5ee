"""Unlabeled prompts: read, rendered, tokenized, identified. Keeps no answer; those live in `data.references`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema import DataSection, DataSource
from data.columns import Row, data_source_name, prompt_columns, require, row_key
from data.model_files import ModelFacts, check_model_dir, load_tokenizer
from data.prepared import read_note, resolved
from data.render import render_text, tokenize
from data.rows import read_rows, source_format
from quorum.errors import DataError
from quorum.types import Prompt, prompt_id_of

__all__ = [
    "ModelFacts",
    "PromptOrder",
    "PromptSet",
    "check_model_dir",
    "load_prompts",
    "load_tokenizer",
    "source_identities",
]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of all sources, in source and file order."""

    prompts: tuple[Prompt, ...]
    num_dropped_too_long: int = 0

    def content_hash(self) -> str:
        """Hash (32 hex digits) of ids, tokens and order: equal hashes, equal prompts for a run to be resumed with."""
        digest = hashlib.blake2b(digest_size=16)
        for prompt in self.prompts:
            digest.update(f"{prompt.prompt_id}/{prompt.extractor}/{len(prompt.token_ids)}/".encode())
            digest.update(np.ascontiguousarray(prompt.token_ids, dtype=np.int32).tobytes())
        return digest.hexdigest()

    @property
    def is_paired(self) -> bool:
        """Whether every prompt stands beside its other view."""
        return all(prompt.other_view is not None for prompt in self.prompts)

    def order(self, seed: int, shuffle: bool, *, in_pairs: bool = False) -> PromptOrder:
        """The endless sequence in which prompts are admitted; in pairs, the two views of a prompt one after the other.

        Raises:
            DataError: pairs are wanted, and a prompt has no other view.
        """
        if in_pairs and not self.is_paired:
            raise DataError(
                "voting.labels=cross_view: every prompt needs a paraphrase; name the column that holds it in each "
                "data source (columns.paraphrase)"
            )
        return PromptOrder(self.prompts, seed, shuffle, unit=2 if in_pairs else 1)


class PromptOrder:
    """Prompt of each admission number, epoch after epoch. A pure function of (seed, number): resume is an index."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffle: bool, unit: int = 1) -> None:
        """Args: unit: so many neighbours stay together when shuffled; divides the number of prompts."""
        if not prompts or len(prompts) % unit:
            raise ValueError(f"an order needs at least one prompt, in whole units of {unit}, got {len(prompts)}")
        self._prompts, self._seed, self._shuffle, self._unit = tuple(prompts), seed, shuffle, unit
        self._cached: tuple[int, np.ndarray] | None = None

    def prompt_at(self, i: int) -> Prompt:
        """Prompt of admission number `i` >= 0: place i % N of epoch i // N, each epoch a fresh permutation."""
        if i < 0:
            raise ValueError(f"admission number must be >= 0, got {i}")
        epoch, place = divmod(i, len(self._prompts))
        unit, inside = divmod(place, self._unit)
        return self._prompts[(int(self._permutation(epoch)[unit]) if self._shuffle else unit) * self._unit + inside]

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
            self._cached = (epoch, generator.permutation(len(self._prompts) // self._unit))
        return self._cached[1]


def source_identities(sources: Sequence[DataSource]) -> list[str]:
    """Names of sources inside prompt ids: what is left when their files are moved together.

    The path's last part, or the whole path where different sources end alike, with the split where the format has
    splits. A prepared file bears the name that it says.
    """
    paths_by_name: dict[str, set[str]] = {}
    for source in sources:
        paths_by_name.setdefault(_last_part(source.path), set()).add(source.path)
    names = []
    for source in sources:
        note = read_note(source.path)
        if note is not None:
            names.append(note.name)
            continue
        name = _last_part(source.path)
        if len(paths_by_name[name]) > 1:
            name = source.path
        names.append(f"{name}#{source.split}" if source_format(source) in ("datasets", "hub") else name)
    return names


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def load_prompts(
    sources: Sequence[DataSource], section: DataSection, tokenizer: Any, *, max_prompt_tokens: int
) -> PromptSet:
    """Read, render and tokenize the prompts of all sources.

    The same text may occur many times; the same row key of one source may not.

    Args:
        sources: Data sets, concatenated.
        section: How prompts are rendered, and what happens to long ones.
        tokenizer: As `load_tokenizer` gives it.
        max_prompt_tokens: Longest prompt kept, special tokens included.

    Raises:
        DataError: one line naming file, row and fix: unreadable or empty data, a missing column, a row key
            that occurs twice, a long prompt with `on_long_prompt: error`, or no prompt left.
    """
    seen: dict[str, str] = {}
    prompts: list[Prompt] = []
    too_long: list[tuple[str, int]] = []
    for source, identity in zip(map(resolved, sources), source_identities(sources), strict=True):
        for row, views in _views(source, identity, section, tokenizer):
            _check_unique(views[0].prompt_id, row, source, seen)
            lengths = [len(prompt.token_ids) for prompt in views]
            if min(lengths) == 0:
                raise DataError(f"{row.where}: the prompt has no tokens after rendering")
            if max(lengths) > max_prompt_tokens:
                too_long.append((row.where, max(lengths)))
            else:
                prompts += views
    _check_long(too_long, len(prompts), max_prompt_tokens, section)
    return PromptSet(tuple(prompts), len(too_long))


def _views(
    source: DataSource, identity: str, section: DataSection, tokenizer: Any
) -> Iterator[tuple[Row, list[Prompt]]]:
    """Each row with its prompt, and the prompt's paraphrase where the source has one."""
    names = [("prompt", source.columns.prompt)]
    names += [("paraphrase", source.columns.paraphrase)] if source.columns.paraphrase else []
    rows = list(read_rows(source, prompt_columns(source)))
    ids = [
        [view_id(identity, row_key(row, source), is_paraphrase=setting == "paraphrase") for setting, _ in names]
        for row in rows
    ]
    columns = []
    for setting, name in names:
        values = [require(row, name, setting) for row in rows]
        texts = [render_text(value, row.where, tokenizer, section) for row, value in zip(rows, values, strict=True)]
        columns.append(list(zip(texts, tokenize([text.text for text in texts], tokenizer, section), strict=True)))
    for index, row in enumerate(rows):
        yield (
            row,
            [
                Prompt(
                    prompt_id=ids[index][view],
                    data_source=data_source_name(row, source),
                    token_ids=column[index][1],
                    text=column[index][0].text,
                    messages=column[index][0].messages,
                    extractor=source.extractor,
                    other_view=ids[index][1 - view] if len(names) == 2 else None,
                )
                for view, column in enumerate(columns)
            ],
        )


def view_id(identity: str, key: str, *, is_paraphrase: bool) -> str:
    """prompt_id of a row's prompt, or of its paraphrase."""
    return prompt_id_of(identity, f"{key}\0paraphrase" if is_paraphrase else key)


def _check_unique(prompt_id: str, row: Row, source: DataSource, seen: dict[str, str]) -> None:
    if prompt_id in seen:
        if source.columns.id is None:
            raise DataError(f"{source.path}: listed twice ({seen[prompt_id]} and {row.where} are the same row)")
        raise DataError(
            f"{row.where}: the id {row_key(row, source)!r} occurs twice, first at {seen[prompt_id]}; "
            "ids must be unique inside a source (columns.id)"
        )
    seen[prompt_id] = row.where


def _check_long(too_long: list[tuple[str, int]], num_kept: int, limit: int, section: DataSection) -> None:
    if too_long and section.on_long_prompt == "error":
        where, length = too_long[0]
        raise DataError(
            f"{where}: the prompt has {length:,} tokens, the limit is {limit:,} ({len(too_long):,} prompts are "
            "longer); raise data.max_prompt_tokens or set data.on_long_prompt to drop"
        )
    if num_kept == 0:
        shortest = min(length for _, length in too_long)
        raise DataError(
            f"no prompt is left: all {len(too_long):,} are longer than {limit:,} tokens (the shortest has "
            f"{shortest:,}); raise data.max_prompt_tokens"
        )
