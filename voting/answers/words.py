r"""Answers in words and letters of choices: what is a word rather than a product of variables, and how words compare.

A parser reads words as products of letters, so that "listen" equals "silent"; what is words here never gets there.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z]{3}|[^\W\d_a-zA-Z\u0370-\u03ff]")
_LETTERS = re.compile(r"[A-Za-z ]+")
_CONNECTIVE = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_MATHEMATICAL = re.compile(r"[0-9=+*/^_<>|\\&]")
_TEXT = re.compile(r"\\text\{((?:[^{}]|\{[^{}]*\})*)\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end|operatorname)\s*\{[^{}]*\}")
_LONG_WORD = re.compile(r"(?<![A-Za-z\\])(?!prime(?![A-Za-z]))[A-Za-z]{4}|[^\W\d_a-zA-Z\u0370-\u03ff]")
_FIGURE = re.compile(r"\\(?:angle|triangle|overrightarrow|widehat)\s*\{?\s*[A-Z]{2,}\s*\}?")
_IGNORED = re.compile(r"""(?<![0-9])[.,]|[.,](?![0-9])|[\s;:!?"'`{}$~]+|\\(?![A-Za-z])|\\text(?![A-Za-z])""")
_SPACE = re.compile(r"\s+")
_ARTICLE = re.compile(r"(?:an?|the) (?=\w)")
_CHOICE = re.compile(r"(?:\\text\{\s*)?(?:(?:option|choice)\s+)?\(?\s*([A-Ja-j])\s*\)?[.:)]*\s*\}?", re.IGNORECASE)
_CHOICE_AND_CONTENT = re.compile(
    r"(?:\\text\{\s*\(([A-J])\)[.:]?\s*\}\s*|\(([A-J])\)[.:]?\s+|([A-J])[.)]\s+)"
    r"(?!and |or |\\(?:text\{\s*(?:and|or)|cdot|times|cup|cap|in|le|ge)(?![A-Za-z]))(?=[0-9A-Za-z\\$-])"
)


def is_words(text: str) -> bool:
    r"""Whether a respelled answer is words and nothing else.

    Example:
        >>> [is_words(text) for text in ("listen", r"\text{no solution}", "Alice and Bob")]
        [True, True, True]
        >>> [is_words(text) for text in ("xy", "at least 5", r"\sin x", "A and C")]
        [False, False, False, False]
    """
    bare = _CONNECTIVE.sub(" ", _TEXT.sub(r"\1", text))
    if _LETTERS.fullmatch(bare) and len(bare) - bare.count(" ") >= 5:
        return True
    return _WORD.search(bare) is not None and not _MATHEMATICAL.search(bare)


def has_words(text: str) -> bool:
    r"""Whether a value whose unit is taken off still has a word in it, or is a figure named by its corners.

    Words have four letters here: three may be a product of variables.

    Example:
        >>> [has_words(text) for text in ("at least 5", r"\angle ABC", r"\sin x", "2abc")]
        [True, True, False, False]
    """
    return _FIGURE.fullmatch(text) is not None or _LONG_WORD.search(_ENVIRONMENT.sub(" ", text)) is not None


def words_key(text: str) -> str:
    r"""What words are compared by: without case, punctuation, fonts and a leading article; digits keep their points.

    Example:
        >>> words_key(r"\text{An ellipse.}"), words_key('No  "Solution"'), words_key(r"at least $3.5$")
        ('ellipse', 'no solution', 'at least 3.5')
    """
    key = _SPACE.sub(" ", _IGNORED.sub(" ", text)).strip().casefold()
    return _ARTICLE.sub("", key, count=1) if _ARTICLE.match(key) else key


def choice_letter(text: str) -> str | None:
    r"""The letter of a multiple-choice answer written in one of its forms, with or without what stands beside it.

    Example:
        >>> [choice_letter(text) for text in ("(B)", "B.", r"\text{(B)} 12", "D. 12", "option C", "(B) + 1", "B2")]
        ['B', 'B', 'B', 'D', 'C', None, None]
    """
    if match := _CHOICE.fullmatch(text):
        return match.group(1)
    if match := _CHOICE_AND_CONTENT.match(text):
        return match.group(1) or match.group(2) or match.group(3)
    return None
