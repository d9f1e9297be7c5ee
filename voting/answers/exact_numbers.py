r"""Plain numbers without a parser: integers, decimals, fractions, mixed numbers, powers of ten, percentages, bases.

Exact (Fraction), and the same as math-verify says where it can read them, but for two things: decimals that round to
the same few places must also agree in their first digits, so that constants of physics are not all zero; and a
numeral with a base is its value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_TEN_POWER = 400
"""Larger powers of ten are left to the parser."""
_MAX_LENGTH = 1200

_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_TIMES = r"(?:\\times|\\cdot|\*)"
_EXPONENT = r"\^\s*(?:\{\s*([-+]?\s*[0-9]+)\s*\}|([0-9]+))"
_PLAIN = re.compile(_DECIMAL)
_FRACTION = re.compile(
    rf"\\frac\{{\s*([-+]?{_DECIMAL})\s*\}}\{{\s*([-+]?{_DECIMAL})\s*\}}|({_DECIMAL})\s*/\s*({_DECIMAL})"
)
_MIXED = re.compile(r"([0-9]+)\s*\\frac\{\s*([0-9]+)\s*\}\{\s*([0-9]+)\s*\}|([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)")
_SCIENTIFIC = re.compile(rf"(?:({_DECIMAL})\s*{_TIMES}\s*)?10\s*{_EXPONENT}|({_DECIMAL})[eE]([-+]?[0-9]+)")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar)\{([0-9]+)\}")
_ENDLESS = re.compile(r"([0-9]*)\.([0-9]*?)([0-9]{1,12}?)\3\3+\s*(?:\\l?dots|\.\.\.)")
_TRUNCATED = re.compile(r"([0-9]*\.[0-9]+)\s*(?:\\l?dots|\.\.\.)")
_BASED = re.compile(r"\(?(?:\\text\{)?([0-9A-Fa-f]+)\}?\)?\s*_\s*(?:\{\s*([0-9]{1,2})\s*\}|([0-9]))")
_PERCENT = re.compile(r"\s*\\%$")
_SIGN = re.compile(r"\s*([-+])\s*")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    """Without the percent sign: 50 for 50%."""
    is_decimal: bool
    """Written with a decimal point, and so possibly rounded."""
    is_percent: bool = False


def read_number(text: str) -> Number | None:
    r"""The number that a respelled answer is, or None when it is anything else.

    Example:
        >>> read_number(r"-2\frac{1}{2}").value, read_number("1.20").value, read_number(r"3 \times 10^{-2}").value
        (Fraction(-5, 2), Fraction(6, 5), Fraction(3, 100))
        >>> read_number("1011_{2}").value, read_number(r"0.1\overline{6}").value, read_number("x") is None
        (Fraction(11, 1), Fraction(1, 6), True)
    """
    if len(text) > _MAX_LENGTH:
        return None
    if text.isascii() and text.isdigit():
        return Number(Fraction(int(text)), False)
    percent = _PERCENT.search(text)
    body = text[: percent.start()] if percent else text
    body, is_negative = _unsigned(body)
    read = _unsigned_number(body)
    if read is None:
        return None
    value, is_decimal = read
    return Number(-value if is_negative else value, is_decimal, percent is not None)


def numbers_equal(first: Number, second: Number, float_rounding: int) -> bool:
    """Whether two numbers are the same answer.

    Exact numbers must be equal. Where one is a decimal, both must round to the same `float_rounding` places, and agree
    in half as many significant digits however small they are. A percentage equals its value (50% and 0.5) and, from 1
    on, the number before its sign (50% and 50), for a question that asks "how many percent"; so this relation is not
    transitive. A decimal is taken for the number before the sign only where that is one too: 1% is not 1.00.

    Example:
        >>> third, half = Number(Fraction(1, 3), False), Number(Fraction(50), False, is_percent=True)
        >>> numbers_equal(third, read_number("0.333333"), 6), numbers_equal(third, read_number("0.33"), 6)
        (True, False)
        >>> [numbers_equal(half, read_number(text), 6) for text in ("0.5", "1/2", "50", "5")]
        [True, True, True, False]
    """
    is_decimal = first.is_decimal or second.is_decimal
    if first.is_percent == second.is_percent:
        scale = 100 if first.is_percent else 1
        return _close(first.value / scale, second.value / scale, is_decimal, float_rounding)
    percent, plain = (first, second) if first.is_percent else (second, first)
    if _close(percent.value / 100, plain.value, is_decimal, float_rounding):
        return True
    is_written_alike = percent.is_decimal or not plain.is_decimal
    return (
        is_written_alike and abs(percent.value) >= 1 and _close(percent.value, plain.value, is_decimal, float_rounding)
    )


def _close(first: Fraction, second: Fraction, is_decimal: bool, float_rounding: int) -> bool:
    if first == second:
        return True
    if not is_decimal or round(first, float_rounding) != round(second, float_rounding):
        return False
    return bool((first - second) ** 2 * 10**float_rounding < max(first**2, second**2))


def _unsigned(text: str) -> tuple[str, bool]:
    """Without signs and outer parentheses, and whether an odd number of the signs was minus."""
    is_negative = False
    while True:
        if sign := _SIGN.match(text):
            is_negative ^= sign.group(1) == "-"
            text = text[sign.end() :]
        elif text.startswith("(") and text.endswith(")"):
            text = text[1:-1].strip()
        else:
            return text.strip(), is_negative


def _unsigned_number(text: str) -> tuple[Fraction, bool] | None:
    if _PLAIN.fullmatch(text):
        return Fraction(text), "." in text
    if match := _FRACTION.fullmatch(text):
        above, below = (group for group in match.groups() if group)
        return (Fraction(above) / Fraction(below), "." in text) if Fraction(below) else None
    if match := _MIXED.fullmatch(text):
        whole, above, below = (int(group) for group in match.groups() if group)
        return (whole + Fraction(above, below), False) if below else None
    if match := _SCIENTIFIC.fullmatch(text):
        return _scientific(*match.groups())
    if match := _REPEATING.fullmatch(text) or _ENDLESS.fullmatch(text):
        return _repeating(*match.groups()), False
    if match := _TRUNCATED.fullmatch(text):
        return Fraction(match.group(1)), True
    if match := _BASED.fullmatch(text):
        return _based(match.group(1), int(match.group(2) or match.group(3)))
    return None


def _scientific(
    mantissa: str | None, braced: str | None, bare: str | None, e_mantissa: str | None, e_power: str | None
) -> tuple[Fraction, bool] | None:
    digits = (mantissa or "1") if e_mantissa is None else e_mantissa
    power = int((braced or bare or e_power or "0").replace(" ", ""))
    if abs(power) > _MAX_TEN_POWER:
        return None
    value = Fraction(digits) * Fraction(10) ** power
    return value, "." in digits


def _repeating(whole: str, fixed: str, block: str) -> Fraction:
    scale = 10 ** len(fixed)
    return Fraction(int((whole + fixed) or 0), scale) + Fraction(int(block), scale * (10 ** len(block) - 1))


def _based(digits: str, base: int) -> tuple[Fraction, bool] | None:
    if not 2 <= base <= 36 or (len(digits) < 2 and not digits.isdigit()):
        return None
    try:
        return Fraction(int(digits, base)), False
    except ValueError:
        return None
