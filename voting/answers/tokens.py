r"""Splits LaTeX at its outermost level: separators, relations and the bracket around a whole text. Linear and pure."""

from __future__ import annotations

import re
from collections.abc import Collection

SEPARATORS = frozenset({",", ";", "and", "or"})
RELATIONS = frozenset({"=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\equiv", r"\in"})

_TOKEN = re.compile(
    r"\\text\{\s*,?\s*(?P<word>and|or)\s*\}|\\[A-Za-z]+|\\.|[()\[\]{},;=<>:|&]"
    r"|(?<![A-Za-z])(?P<bare>and|or)(?![A-Za-z])"
)
_OPENING = frozenset({"(", "[", "{", r"\{", r"\langle", r"\begin"})
_CLOSING = frozenset({")", "]", "}", r"\}", r"\rangle", r"\end"})


def top_level(text: str) -> list[tuple[str, int, int]]:
    r"""Tokens outside all brackets: (token, start, end), "and" and "or" without their \text{}.

    Empty as well when the brackets do not balance; which kind closes which does not matter, for half-open intervals.

    Example:
        >>> [token for token, _, _ in top_level(r"(1, 2], x = 3 \text{ or } y")]
        [',', '=', 'or']
    """
    depth = 0
    found = []
    for match in _TOKEN.finditer(text):
        token = match.group("word") or match.group("bare") or match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                return []
        elif depth == 0:
            found.append((token, match.start(), match.end()))
    return found if depth == 0 else []


def split(text: str, tokens: Collection[str]) -> list[str]:
    r"""The parts of a text between the given tokens of its outermost level; empty parts are left out.

    Example:
        >>> split(r"1, (2, 3), \text{ and } 4", SEPARATORS)
        ['1', '(2, 3)', '4']
    """
    parts, start = [], 0
    for token, begin, end in top_level(text):
        if token in tokens:
            parts.append(text[start:begin].strip())
            start = end
    return [part for part in (*parts, text[start:].strip()) if part]


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""(opening, content, closing) when one pair of brackets encloses the whole text.

    Example:
        >>> bracketed("[0, 1)"), bracketed("(1)(2)"), bracketed(r"\{1, 2\}")
        (('[', '0, 1', ')'), None, ('\\{', '1, 2', '\\}'))
    """
    first = _TOKEN.match(text)
    if first is None or first.group() not in _OPENING - {r"\begin"}:
        return None
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += (match.group() in _OPENING) - (match.group() in _CLOSING)
        if depth == 0:
            if match.end() != len(text):
                return None
            return first.group(), text[first.end() : match.start()].strip(), match.group()
    return None
