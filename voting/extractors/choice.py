"""Reads the letter that a completion chooses: boxed, stated, or alone on the last line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import Field, field_validator

from quorum.registry import Options
from voting.extractors.boxed import extract_boxed
from voting.extractors.search import last_match

_OPEN = r"""(?:[\s*_"'(\[{$]|\\[(\[]|\\(?:text|mathrm|mathbf|rm|bf)[a-z]{0,2}\b|(?i:option|choice|letter)\b)*+"""
_CLOSE = r"""(?:[\s*_"')\]}$.:!]|\\[)\]])*+"""
_PUNCTUATION = r"""(?:[,;:!?)\]}$"<\u2013\u2014]|\.(?!\d)|\*(?!\w)|_(?![\w{])|'(?!\w)|\\[)\]\\]|\s*+\Z|[ \t\r]*+\n)"""
_STATING = tuple((word[0], word[1:]) for lower in ("answer", "option", "choice") for word in (lower, lower.title()))
"""The first letter apart and as it is: so much faster to search for than without regard to case."""
_AFTER_ARTICLE = r"(?:because|since|as|which|due|for|from)\b"
_ARTICLES = "AI"
"""Letters that are English words: followed by a further word they are no choice."""


class ChoiceOptions(Options):
    """Options of the multiple-choice extractor."""

    letters: Annotated[str, Field(pattern="^[A-Z]{2,26}$")] = "ABCD"
    """The letters that can be chosen, in capitals."""

    @field_validator("letters")
    @classmethod
    def _check_letters(cls, letters: str) -> str:
        if len(set(letters)) < len(letters):
            raise ValueError(f"every letter once, got {letters!r}")
        return letters


_ABCD = ChoiceOptions()


@dataclass(frozen=True, slots=True)
class _Patterns:
    boxed: re.Pattern[str]
    stated: re.Pattern[str]
    bold: re.Pattern[str]
    alone: re.Pattern[str]


def extract_choice(text: str, options: ChoiceOptions = _ABCD) -> str | None:
    r"""The letter of a multiple-choice answer (as in GPQA), in upper case.

    Read in this order: the last `\boxed{}`, when it holds a letter (`C`, `\text{(C)}`, `C. Paris`); the last "answer
    is", "answer:" (also "option", "choice") that a letter follows, then bold print at the end of the last line
    (`**C**`, `**(C) Paris**`); a last line of nothing but a letter (`C`, `(C)`, `c.`). An "A" or "I" before a further
    word is an English word, a small letter before a further word is none either, and where two letters are named
    ("B and D", "(A, B)") none is chosen.

    Args:
        text: one completion.
        options: the letters.

    Returns:
        One upper-case letter; None when none is chosen.

    Example:
        >>> extract_choice("A is too small. The answer is (C).")
        'C'
        >>> extract_choice("The answer is A good question.") is None
        True
    """
    patterns = _patterns(options.letters)
    boxed = extract_boxed(text)
    found = patterns.boxed.match(boxed) if boxed else None
    found = found or last_match(patterns.stated, text)
    if found is None:
        last_line = text[text.rstrip().rfind("\n") + 1 :].strip()
        found = patterns.bold.search(last_line) or patterns.alone.match(last_line)
    return found[1].upper() if found else None


@lru_cache(maxsize=16)
def _patterns(letters: str) -> _Patterns:
    any_case = letters + letters.lower()
    articles = "".join(letter for letter in letters if letter in _ARTICLES)
    plain = "".join(letter for letter in letters if letter not in _ARTICLES)
    word = [rf"(?<=[{plain}])[ \t]++[A-Za-z(\[\u2013\u2014-]"] if plain else []
    word += [rf"(?<=[{articles}])[ \t]++(?:{_AFTER_ARTICLE}|[(\[\u2013\u2014-])"] if articles else []
    after = "|".join([_PUNCTUATION, *word])
    another = rf"[\s*_(\[]*+[{letters}](?![\w'])"
    both = rf"(?:[/&]|and\b|or\b){another}(?!(?<=[{_ARTICLES}])\s+[a-z])"
    listed = rf",{another}(?!\s+(?!and\b|or\b)[a-z])"
    letter = rf"([{any_case}])(?![\s*_)\]]*+(?:{both}|{listed}))(?={after})"
    words = "|".join(f"{first}(?<!\\w.)(?i:{rest})" for first, rest in _STATING)
    stated = rf"(?:{words})(?:[\s*_]++(?i:is)\b(?:[ \t*_]*+[:\uff1a])?|[ \t*_]*+[:\uff1a])"
    mark, bare, with_text = r"(?:\*\*|__)", r"[)\].:]{0,2}", r"[)\].:]{1,2}[ \t][^*_]*+"
    return _Patterns(
        boxed=re.compile(_OPEN + letter),
        stated=re.compile(stated + "[\\s}]*+" + _OPEN + letter),
        bold=re.compile(rf"{mark}(?<!and ..)(?<!or ..)(?<!, ..)[(\[]?([{letters}])(?:{bare}|{with_text}){mark}[.!]?\Z"),
        alone=re.compile(rf"{_OPEN}([{any_case}]){_CLOSE}\Z"),
    )
