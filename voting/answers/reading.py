r"""Takes a respelled answer apart: words, numbers with units, lists, tuples, sets, intervals, matrices, equations.

What has no such structure stays an expression, in LaTeX, for the parser. Nothing is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from voting.answers.exact_numbers import Number, read_number
from voting.answers.expressions import expression_latex
from voting.answers.spelling import respell, trimmed
from voting.answers.tokens import RELATIONS, SEPARATORS, bracketed, split, top_level
from voting.answers.units import split_unit
from voting.answers.words import choice_letter, has_words, is_words, words_key

MAX_ITEMS = 64
"""A longer list, set or matrix is an expression."""
_MAX_LEVEL = 8
"""Structure inside structure; what lies deeper is an expression."""


class Kind(StrEnum):
    """What an answer is."""

    WORDS = "words"
    NUMBER = "number"
    EXPRESSION = "expression"
    LIST = "list"
    """Bare "1, 2": in any order."""
    SET = "set"
    UNION = "union"
    TUPLE = "tuple"
    """(a, b), which may be an open interval too; <a, b>; [a, b, c]; a matrix of one row or column."""
    INTERVAL = "interval"
    """Two ends, of which at least one is closed."""
    MATRIX = "matrix"
    EQUATION = "equation"
    """A name and its value."""
    RESIDUE = "residue"
    """A value and its modulus."""
    RATIO = "ratio"


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer, taken apart."""

    kind: Kind
    text: str
    """The whole answer in LaTeX for the parser; for words, what they are compared by."""
    items: tuple[Reading, ...] = ()
    """Elements; rows of a matrix; the value of an equation; value and modulus of a residue; parts of a ratio."""
    name: str = ""
    """The left-hand side of an equation; the two brackets of an interval."""
    number: Number | None = None
    unit: str = ""
    """As `split_unit` names it."""


_DIGITS = re.compile(r"-?[0-9]{1,1000}(?:\.[0-9]{1,100})?")
_NAME = re.compile(
    r"\\?[A-Za-z]+(?:_(?:\{\w+\}|\w))*"
    r"|(?:[A-Za-z]|\\text\{[A-Za-z]+\})(?:_(?:\{\w+\}|\w))*(?:\^\{-1\})?\s*\(-?[^()=+*/-]*\)"
    r"|\(\s*[A-Za-z](?:_(?:\{\w+\}|\w))?(?:\s*,\s*[A-Za-z](?:_(?:\{\w+\}|\w))?)+\s*\)"
    r"|\\frac\{d[A-Za-z]\}\{d[A-Za-z]\}|\\(?:overline|text|vec|hat|bar)\{[^{}]*\}|\|?[A-Z]{2}\|?"
    r"|[A-Za-z]\s*/\s*[A-Za-z]|\\frac\{[A-Za-z]\}\{[A-Za-z]\}|(?:m\s*)?\\angle\s*[A-Z]{1,3}"
)
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
_MODULUS = re.compile(r"\(?\s*\\(?:pmod|bmod|mod)(?![A-Za-z])\s*(?:\{([^{}]*)\}|([0-9A-Za-z]+))\s*\)?$")
_RATIO = re.compile(r"[0-9]{1,9}(?:\s*:\s*[0-9]{1,9})+")
_TO = re.compile(r"(?<=[0-9])\s*(?:\\text\{\s*to\s*\}|(?<![A-Za-z])to(?![A-Za-z]))\s*(?=[0-9])")
_MATRIX = re.compile(r"\\begin\{(?:[pbB]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{(?:[pbB]?matrix|array)\}")
_POINT = re.compile(r"[A-Z]\s*(?=\()")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_FULL_HOUR = re.compile(r"([0-9]{1,2}):00")


def read(answer: str) -> Reading:
    r"""What an answer is, whatever its spelling.

    Args:
        answer: as extracted, of any content.

    Example:
        >>> read("$(1,\\ 2)$").kind, read(r"x = \pm 2").items[0].kind, read(r"25\text{ cm}^2").unit
        (<Kind.TUPLE: 'tuple'>, <Kind.LIST: 'list'>, 'cm^2')
    """
    if _DIGITS.fullmatch(answer):
        return Reading(Kind.NUMBER, answer, number=read_number(answer))
    return _read(respell(answer), _MAX_LEVEL)


def _read(text: str, level: int) -> Reading:
    text = trimmed(text)
    text = choice_letter(text) or text
    if is_words(text):
        return Reading(Kind.WORDS, words_key(text))
    if level:
        for reader in (_residue, _list, _equation, _union, _plus_minus, _brackets, _matrix, _ratio):
            found = reader(text, level - 1)
            if found is not None:
                return found
    return _value(text, level)


def _value(text: str, level: int) -> Reading:
    """A number or an expression, with its unit."""
    number = read_number(text)
    if number is not None:
        return Reading(Kind.NUMBER, expression_latex(text), number=number)
    value, unit = split_unit(text)
    if value != text and level:
        hour = _FULL_HOUR.fullmatch(value) if unit in ("am", "pm") else None
        reading = _read(hour.group(1) if hour else value, level - 1)
        return replace(reading, unit=unit or reading.unit)
    if has_words(text):
        return Reading(Kind.WORDS, words_key(text))
    return Reading(Kind.EXPRESSION, expression_latex(text))


def _residue(text: str, level: int) -> Reading | None:
    match = _MODULUS.search(text)
    if match is None or not text[: match.start()].strip():
        return None
    value = text[: match.start()].rpartition(r"\equiv")[2]
    modulus = match.group(1) or match.group(2) or ""
    return Reading(Kind.RESIDUE, text, (_read(value, level), _read(modulus, level)))


def _list(text: str, level: int) -> Reading | None:
    parts = split(text, SEPARATORS)
    if not 2 <= len(parts) <= MAX_ITEMS:
        return None
    return Reading(Kind.LIST, expression_latex(text), _members(parts, level))


def _members(parts: list[str], level: int) -> tuple[Reading, ...]:
    """Elements of a list or set; one with a sign \\pm is two of them."""
    items = [_read(part, level) for part in parts]
    return tuple(member for item in items for member in (item.items if item.kind is Kind.LIST else (item,)))


def _equation(text: str, level: int) -> Reading | None:
    relations = {token for token, _, _ in top_level(text) if token in RELATIONS}
    if relations not in ({"="}, {r"\in"}, {"=", r"\approx"}, {r"\approx"}):
        return None
    parts = split(text, relations)
    if len(parts) < 2:
        return None
    left, right = parts[0], parts[-1]
    if len(parts) == 2 and "=" in relations and _NAME.fullmatch(right) and not _NAME.fullmatch(left):
        left, right = right, left
    if not _NAME.fullmatch(left):
        return _read(right, level) if not _LETTER.search(left) else None
    name = re.sub(r"[\s{}]", "", left).casefold()
    return Reading(Kind.EQUATION, expression_latex(text), (_read(right, level),), name)


def _union(text: str, level: int) -> Reading | None:
    parts = split(text, {r"\cup"})
    if not 2 <= len(parts) <= MAX_ITEMS:
        return None
    return Reading(Kind.UNION, expression_latex(text), tuple(_read(part, level) for part in parts))


def _plus_minus(text: str, level: int) -> Reading | None:
    if not 1 <= len(_PLUS_MINUS.findall(text)) <= 4 or text.startswith(r"\{"):
        return None
    upper = _PLUS_MINUS.sub(lambda sign: "+" if sign.group(1) == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda sign: "-" if sign.group(1) == "pm" else "+", text)
    return Reading(Kind.LIST, expression_latex(text), (_read(upper, level), _read(lower, level)))


def _brackets(text: str, level: int) -> Reading | None:
    point = _POINT.match(text)
    group = bracketed(text[point.end() :] if point else text)
    if group is None:
        return None
    opening, content, closing = group
    pair = opening + closing
    if pair == r"\{\}" and (condition := _condition(content)):
        return _read(condition, level)
    parts = split(content, {",", ";"})
    if not 1 <= len(parts) <= MAX_ITEMS or (point and len(parts) == 1):
        return None
    if len(parts) == 1:
        return _read(content, level) if pair in ("()", r"\{\}") or read_number(content) else None
    items = tuple(_read(part, level) for part in parts)
    latex = expression_latex(text)
    if pair == r"\{\}":
        return Reading(Kind.SET, latex, _members(parts, level))
    if pair == "[]" and all(part.startswith("[") for part in parts):
        return Reading(Kind.MATRIX, latex, tuple(Reading(Kind.TUPLE, "", row.items) for row in items))
    if pair in ("()", r"\langle\rangle") or (pair == "[]" and len(items) > 2):
        return Reading(Kind.TUPLE, latex, items)
    return Reading(Kind.INTERVAL, latex, items, pair) if len(items) == 2 and pair in ("[]", "[)", "(]") else None


def _condition(content: str) -> str | None:
    r"""What the elements of {x | ...} fulfil, where x is a name or x \in \mathbb{R}."""
    for token, begin, end in top_level(content):
        if token in (r"\mid", r"\vert", ":", "|"):
            left = content[:begin].replace(r"\in", "").replace(r"\mathbb{R}", "").strip()
            return content[end:] if _NAME.fullmatch(left) else None
    return None


def _matrix(text: str, level: int) -> Reading | None:
    group = bracketed(text)
    match = _MATRIX.fullmatch(group[1] if group and group[0] in "([" else text)
    if match is None or r"\begin" in match.group(1):
        return None
    rows = [row for row in match.group(1).split("\\\\") if row.strip()]
    cells = [[_read(cell, level) for cell in row.split("&")] for row in rows[:MAX_ITEMS]]
    if not cells or len(rows) > MAX_ITEMS or len(cells[0]) > MAX_ITEMS:
        return None
    latex = expression_latex(text)
    if len(cells) == 1 or all(len(row) == 1 for row in cells):
        return Reading(Kind.TUPLE, latex, tuple(cell for row in cells for cell in row))
    return Reading(Kind.MATRIX, latex, tuple(Reading(Kind.TUPLE, "", tuple(row)) for row in cells))


def _ratio(text: str, level: int) -> Reading | None:
    text = _TO.sub(":", text)
    if not _RATIO.fullmatch(text):
        return None
    return Reading(Kind.RATIO, text, tuple(_read(part, 0) for part in text.split(":")))
