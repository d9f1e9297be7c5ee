r"""Numbers as answers: reads a whole answer as one exact number, and compares two numbers within a tolerance.

Reading never raises and takes time linear in the text. Nothing is rounded: a number is a Decimal or a Fraction.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Literal

Number = Decimal | Fraction

MAX_CHARACTERS = 1000
"""Longer answers are no number: neither a literal of 100,000 digits nor its square is ever computed with."""
MAX_EXPONENT = 1000
"""Powers of ten beyond this, either way, are no number: 1e999999999 would have a billion digits once subtracted."""

_BLANK = "[ \u00a0\u2009\u202f]"
_SIGN = "[+\\-\u2212]"
_MARK_CHARACTERS = "%$\\ \u20ac\u00a3\u00a5"
_CURRENCY = "\\\\?\\$|[\u20ac\u00a3\u00a5]"
_COMMA = r"\{,\}|,\\!|,"
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def _grouped(name: str, separator: str) -> str:
    """An integer, its thousands set apart by one and the same separator or not at all."""
    thousands = rf"[1-9][0-9]{{0,2}}(?P<{name}>{separator})[0-9]{{3}}(?:(?P={name})[0-9]{{3}})*"
    return rf"(?:{thousands}|[0-9]+)"


_HEAD = re.compile(rf"(?P<sign>{_SIGN}?)\s*(?P<currency>(?:{_CURRENCY})?)\s*(?P<inner>{_SIGN}?)\s*")
_TAIL = re.compile(rf"\s*(?P<mark>\\?%|{_CURRENCY})")
_INTEGER = _grouped("separator", rf"{_COMMA}|\\,|{_BLANK}")
_E = rf"[eE](?P<e>{_SIGN}?[0-9]+)"
_TIMES = r"\s*(?:\\times|\\cdot|\*|x|" + "\u00d7" + r")\s*10\s*(?:\^|\*\*)\s*"
_POWER = rf"{_TIMES}(?:\{{\s*(?P<braced>{_SIGN}?[0-9]+)\s*\}}|(?P<bare>{_SIGN}?[0-9]+))"
_DECIMAL = re.compile(rf"(?P<whole>{_INTEGER})?(?P<point>\.(?P<part>[0-9]*))?(?:{_E}|{_POWER})?")
_RATIO = re.compile(
    rf"(?:(?P<whole>{_grouped('w', _COMMA)})\s+(?!0|[0-9]{{3}}\s*/))?"
    rf"(?P<n>{_grouped('a', _COMMA)})\s*/\s*(?P<d>{_grouped('b', _COMMA)})"
)
"""In `1 200/3` the blank may stand for a mixed number or for thousands: it is neither."""
_FRAC = re.compile(
    rf"(?:(?P<whole>{_grouped('w', _COMMA)})\s*)?\\[dt]?frac\s*"
    rf"\{{\s*(?P<n>{_SIGN}?\s*{_grouped('a', _COMMA)})\s*\}}\s*\{{\s*(?P<d>{_SIGN}?\s*{_grouped('b', _COMMA)})\s*\}}"
)
_NOT_OF_AN_INTEGER = re.compile(r"[^0-9\-]+")


def numeric_value(answer: str, *, percent: Literal["share", "number"] = "share") -> Number | None:
    r"""The number that a whole answer is, or None when it is anything else.

    Read are integers and decimals (`7`, `.5`, `5.`), signs (U+2212 too), thousands set apart by a comma, a blank,
    `{,}`, `,\!` or `\,` (three digits each, so that `1,2,3` is no number), fractions (`1/2`, `\frac{1}{2}`), mixed
    numbers (`1 1/2`), scientific notation (`1e5`, `1.5 \times 10^{5}`, `1.5*10^5`), a percent or a currency sign, and
    all of it inside `$...$` or its kin. A comma is never a decimal comma.

    Args:
        answer: one answer; surrounding whitespace does not matter.
        percent: whether `50%` is the share 0.5 or the number 50.

    Returns:
        The exact value: a Fraction when written as one, else a Decimal. None for a zero denominator, for more than
        MAX_CHARACTERS characters and for a power of ten beyond MAX_EXPONENT.

    Example:
        >>> numeric_value("1,000.50"), numeric_value(r"$-\frac{1}{2}$"), numeric_value("5 apples")
        (Decimal('1000.50'), Fraction(-1, 2), None)
        >>> numeric_value("50%"), numeric_value("50%", percent="number")
        (Decimal('0.50'), Decimal('50'))
    """
    text = answer.strip()
    if len(text) > MAX_CHARACTERS:
        return None
    text = _unwrapped(text)
    head = _HEAD.match(text)
    assert head is not None
    if head["sign"] and head["inner"]:
        return None
    body, marks = text[head.end() :], [head["currency"]] if head["currency"] else []
    if tail := _TAIL.fullmatch(body, len(body.rstrip(_MARK_CHARACTERS))):
        body, marks = body[: tail.start()], [*marks, tail["mark"]]
    if len(marks) > 1:
        return None
    shift = -2 if marks and marks[0].endswith("%") and percent == "share" else 0
    return _magnitude(body, is_negative=(head["sign"] + head["inner"]) in ("-", "\u2212"), shift=shift)


def numbers_equal(a: Number, b: Number, *, relative_tolerance: float, absolute_tolerance: float) -> bool:
    """Whether |a - b| <= max(absolute, relative * max(|a|, |b|)), computed exactly.

    Symmetric and reflexive, but not transitive unless both tolerances are 0.

    Args:
        a: a number as `numeric_value` gives it.
        b: the other.
        relative_tolerance: share of the larger magnitude, >= 0.
        absolute_tolerance: distance that is always allowed, >= 0.

    Raises:
        ValueError: a tolerance is negative, infinite or NaN.

    Example:
        >>> numbers_equal(Fraction(1, 3), Decimal("0.3333"), relative_tolerance=1e-3, absolute_tolerance=0.0)
        True
    """
    for tolerance in (relative_tolerance, absolute_tolerance):
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"a tolerance must be finite and >= 0, got {tolerance}")
    one, other = Fraction(a), Fraction(b)
    allowed = max(Fraction(absolute_tolerance), Fraction(relative_tolerance) * max(abs(one), abs(other)))
    return abs(one - other) <= allowed


def _unwrapped(text: str) -> str:
    for left, right in _WRAPPERS:
        inner = text[len(left) : len(text) - len(right)]
        if text == left + inner + right and inner and "$" not in inner.replace("\\$", ""):
            return inner.strip()
    return text


def _magnitude(body: str, *, is_negative: bool, shift: int) -> Number | None:
    """The number that unsigned digits are, with its sign and times 10 to the `shift`."""
    if match := _DECIMAL.fullmatch(body):
        return _decimal(match, is_negative, shift)
    match = _RATIO.fullmatch(body) or _FRAC.fullmatch(body)
    if match is None:
        return None
    whole, numerator, denominator = (_integer(match[name] or "0") for name in ("whole", "n", "d"))
    is_proper = 0 <= numerator < denominator
    if denominator == 0 or (match["whole"] is not None and not is_proper):
        return None
    value = (whole + Fraction(numerator, denominator)) * Fraction(10) ** shift
    return -value if is_negative else value


def _decimal(match: re.Match[str], is_negative: bool, shift: int) -> Decimal | None:
    whole, part = match["whole"] or "", match["part"] or ""
    if not whole and not part:
        return None
    exponent = _integer(match["e"] or match["braced"] or match["bare"] or "0")
    if abs(exponent) > MAX_EXPONENT:
        return None
    digits = _NOT_OF_AN_INTEGER.sub("", whole) + part
    return Decimal(f"{'-' if is_negative else ''}{digits}E{exponent - len(part) + shift}")


def _integer(text: str) -> int:
    return int(_NOT_OF_AN_INTEGER.sub("", text.replace("\u2212", "-")))
