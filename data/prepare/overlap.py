"""Duplicates inside a set and overlap between sets: exact after normalisation, near by n-grams of words.

Both are exact computations, no sketches: candidate pairs come from a prefix-filtered index of n-grams (Bayardo et al.
2007), so that no pair above the threshold is missed. Contamination follows the field's rule (arXiv 2005.14165, appendix
C): a training prompt is flagged where it shares an n-gram of 13 words with a test prompt, or the whole of a test prompt
of 8 to 12 words; shorter ones can only be equal or near.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.prepare.write import Example

Kind = Literal["exact", "near", "ngram"]
KINDS: tuple[Kind, ...] = ("exact", "near", "ngram")
MIN_NGRAM = 8
"""Words below which a test prompt's text is no sign of contamination."""
_WORDS = re.compile(r"\w+|[^\w\s]")
"""Words and single signs: in mathematics a sign makes another problem."""
_PLAIN_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapOptions:
    """What counts as the same."""

    kinds: tuple[Kind, ...] = KINDS
    """What is looked for. Prompts made from one template share most n-grams: there exact alone says something."""
    shingle: int = 3
    """Words and signs of an n-gram whose sets are compared for near-duplicates."""
    threshold: float = 0.9
    """Jaccard similarity of those sets from which two prompts are near-duplicates."""
    ngram: int = 13
    """Words (without signs) of an n-gram that a training and a test prompt may not share."""


@dataclass(frozen=True, slots=True)
class Match:
    """Two prompts that are too much alike."""

    kind: Kind
    key: str
    """Of the prompt that `--drop` removes."""
    other_key: str
    other_set: str
    """Name of the set that the other is in."""
    similarity: float
    """Jaccard similarity of n-grams; for kind ngram the share of the other's n-grams that are in this prompt."""
    prompt: str
    other_prompt: str


def normalized(text: str) -> str:
    """Unicode compatibility form, case folded, each run of white space one space: what exact comparison sees."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def duplicates(name: str, examples: Sequence[Example], options: OverlapOptions) -> list[Match]:
    """Rows that repeat an earlier row of the same set, each reported once, against the earliest that it repeats."""
    found: list[Match] = []
    first: dict[str, int] = {}
    texts = [normalized(one.prompt) for one in examples]
    unique: list[int] = []
    for index, text in enumerate(texts):
        if text in first:
            found.append(_match("exact", examples[index], examples[first[text]], name, 1.0))
        else:
            first[text] = index
            unique.append(index)
    if "exact" not in options.kinds:
        found.clear()
    if "near" not in options.kinds:
        return found
    sets = [_shingles(texts[index], options.shingle) for index in unique]
    gone: set[int] = set()
    for later, earlier, similarity in similar_pairs(sets, sets, options.threshold, same=True):
        if later not in gone and earlier not in gone:
            gone.add(later)
            found.append(_match("near", examples[unique[later]], examples[unique[earlier]], name, similarity))
    return found


def overlaps(
    examples: Sequence[Example], name: str, against: Sequence[Example], options: OverlapOptions
) -> list[Match]:
    """Training prompts that are in a test set, each reported once, by the strongest reason there is.

    Args:
        examples: of the training set.
        name: of the test set.
        against: the test set.
        options: what counts as the same.
    """
    ours, theirs = ([normalized(one.prompt) for one in side] for side in (examples, against))
    found: dict[int, Match] = {}
    if "exact" in options.kinds:
        exact = {text: index for index, text in reversed(list(enumerate(theirs)))}
        for index, text in enumerate(ours):
            if text in exact:
                found[index] = _match("exact", examples[index], against[exact[text]], name, 1.0)
    if "near" in options.kinds:
        left, right = ([_shingles(text, options.shingle) for text in side] for side in (ours, theirs))
        for index, other, similarity in similar_pairs(left, right, options.threshold, same=False):
            if index not in found:
                found[index] = _match("near", examples[index], against[other], name, similarity)
    if "ngram" in options.kinds:
        for index, (other, share) in _contaminated(ours, theirs, options.ngram).items():
            if index not in found:
                found[index] = _match("ngram", examples[index], against[other], name, share)
    return [found[index] for index in sorted(found)]


def _contaminated(ours: Sequence[str], theirs: Sequence[str], n: int) -> dict[int, tuple[int, float]]:
    """By index of a training text: the test text with which it shares the largest share of that one's n-grams."""
    words = [_PLAIN_WORDS.findall(text) for text in theirs]
    owners: dict[str, list[int]] = {}
    sizes: dict[int, int] = {}
    lengths: set[int] = set()
    for other, one in enumerate(words):
        length = min(n, len(one))
        if length >= min(n, MIN_NGRAM):
            lengths.add(length)
            grams = _grams(one, length)
            sizes[other] = len(grams)
            for gram in grams:
                owners.setdefault(gram, []).append(other)
    found: dict[int, tuple[int, float]] = {}
    for index, text in enumerate(ours):
        own = _PLAIN_WORDS.findall(text)
        grams = frozenset(gram for length in lengths if length <= len(own) for gram in _grams(own, length))
        hits = Counter(other for gram in grams for other in owners.get(gram, ()))
        if hits:
            other, count = min(hits.items(), key=lambda item: (-item[1] / sizes[item[0]], item[0]))
            found[index] = (other, count / sizes[other])
    return found


def similar_pairs(
    left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], threshold: float, *, same: bool
) -> Iterable[tuple[int, int, float]]:
    """All pairs (i, j) with Jaccard similarity of left[i] and right[j] >= threshold, by i, then the most similar first.

    With `same`, both are one list and only pairs j < i are given. Sets that reach the threshold share one of their
    rarest |x| - ceil(t |x|) + 1 elements, so only those are looked up.
    """
    frequency = Counter(gram for grams in right for gram in grams)
    if not same:
        frequency.update(gram for grams in left for gram in grams)

    def prefix(grams: frozenset[str]) -> list[str]:
        ordered = sorted(grams, key=lambda gram: (frequency[gram], gram))
        return ordered[: len(grams) - _ceil(threshold * len(grams)) + 1]

    index: dict[str, list[int]] = {}
    for j, grams in enumerate(right):
        for gram in prefix(grams):
            index.setdefault(gram, []).append(j)
    for i, grams in enumerate(left):
        candidates = {j for gram in prefix(grams) for j in index.get(gram, ()) if not same or j < i}
        pairs = []
        for j in candidates:
            other = right[j]
            if min(len(grams), len(other)) < threshold * max(len(grams), len(other)):
                continue
            shared = len(grams & other)
            similarity = shared / (len(grams) + len(other) - shared)
            if similarity >= threshold:
                pairs.append((i, j, similarity))
        yield from sorted(pairs, key=lambda pair: (-pair[2], pair[1]))


def as_json(match: Match) -> dict[str, Any]:
    """A match as plain values."""
    return {name: getattr(match, name) for name in Match.__dataclass_fields__} | {
        "similarity": round(match.similarity, 4)
    }


def _ceil(value: float) -> int:
    """Ceiling that forgives the rounding of products such as 0.9 * 10."""
    return -int(-(value - 1e-9) // 1)


def _match(kind: Kind, ours: Example, theirs: Example, other_set: str, similarity: float) -> Match:
    return Match(kind, ours.key, theirs.key, other_set, similarity, ours.prompt, theirs.prompt)


def _shingles(text: str, n: int) -> frozenset[str]:
    """n-grams of words and signs of a normalised text; a shorter text is one n-gram."""
    return _grams(_WORDS.findall(text), n)


def _grams(words: Sequence[str], n: int) -> frozenset[str]:
    if not words:
        return frozenset()
    return frozenset(" ".join(words[start : start + n]) for start in range(max(1, len(words) - n + 1)))
