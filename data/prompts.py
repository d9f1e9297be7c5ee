"""Unlabeled prompts: read, rendered, tokenized, identified. Keeps no answer; those live in `data.references`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema import DataSection, DataSource
from data.columns import Row, data_source_name, prompt_columns, require, row_key
from data.model_files import ModelFacts, check_model_dir, load_tokenizer
from data.render import RenderedText, render_text, tokenize
from data.rows import read_rows, source_format
from quorum.errors import DataError
from quorum.types import Int32Array, Prompt, prompt_id_of

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

    def order(self, seed: int, shuffle: bool) -> PromptOrder:
        """The endless sequence in which prompts are admitted."""
        return PromptOrder(self.prompts, seed, shuffle)


class PromptOrder:
    """Prompt of each admission number, epoch after epoch. A pure function of (seed, number): resume is an index."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffle: bool) -> None:
        if not prompts:
            raise ValueError("an order needs at least one prompt")
        self._prompts, self._seed, self._shuffle = tuple(prompts), seed, shuffle
        self._cached: tuple[int, np.ndarray] | None = None

    def prompt_at(self, i: int) -> Prompt:
        """Prompt of admission number `i` >= 0: place i % N of epoch i // N, each epoch a fresh permutation."""
        if i < 0:
            raise ValueError(f"admission number must be >= 0, got {i}")
        epoch, place = divmod(i, len(self._prompts))
        return self._prompts[int(self._permutation(epoch)[place]) if self._shuffle else place]

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
            self._cached = (epoch, generator.permutation(len(self._prompts)))
        return self._cached[1]


def source_identities(sources: Sequence[DataSource]) -> list[str]:
    """Names of sources inside prompt ids: what is left when their files are moved together.

    The path's last part, or the whole path where different sources end alike, with the split where the format has
    splits.
    """
    paths_by_name: dict[str, set[str]] = {}
    for source in sources:
        paths_by_name.setdefault(_last_part(source.path), set()).add(source.path)
    names = []
    for source in sources:
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
    for source, identity in zip(sources, source_identities(sources), strict=True):
        rows, texts = _render_source(source, section, tokenizer)
        token_ids = tokenize([rendered.text for rendered in texts], tokenizer, section)
        for row, rendered, ids in zip(rows, texts, token_ids, strict=True):
            prompt = _build_prompt(row, source, identity, rendered, ids)
            _check_unique(prompt.prompt_id, row, source, seen)
            if len(ids) == 0:
                raise DataError(f"{row.where}: the prompt has no tokens after rendering")
            if len(ids) > max_prompt_tokens:
                too_long.append((row.where, len(ids)))
            else:
                prompts.append(prompt)
    _check_long(too_long, len(prompts), max_prompt_tokens, section)
    return PromptSet(tuple(prompts), len(too_long))


def _render_source(source: DataSource, section: DataSection, tokenizer: Any) -> tuple[list[Row], list[RenderedText]]:
    rows = list(read_rows(source, prompt_columns(source)))
    values: Iterable[Any] = (require(row, source.columns.prompt, "prompt") for row in rows)
    return rows, [render_text(value, row.where, tokenizer, section) for row, value in zip(rows, values, strict=True)]


def _build_prompt(row: Row, source: DataSource, identity: str, rendered: RenderedText, token_ids: Int32Array) -> Prompt:
    return Prompt(
        prompt_id=prompt_id_of(identity, row_key(row, source)),
        data_source=data_source_name(row, source),
        token_ids=token_ids,
        text=rendered.text,
        messages=rendered.messages,
        extractor=source.extractor,
    )


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
