"""Tells at a glance that two parsed answers differ, so that math-verify need not simplify their difference.

Runs in worker processes. An answer has a fingerprint where math-verify compares by value: a number, an expression in
letters at two places, the ends of an interval, the members of a list. Whatever it may treat otherwise (relations,
percentages, matrices, words) has none, and is left to it. Only what it would surely find unequal is rejected here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["value", "interval", "tuple", "set"]
_PLACES = 2
"""Expressions with letters are evaluated at so many places."""
_RELATIVE = 1e-6


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of a parsed answer without simplifying it."""

    kind: Kind
    letters: tuple[str, ...] = ()
    values: tuple[complex, ...] = ()
    """Of a value: itself, or one per place where it has letters."""
    members: tuple[Fingerprint | None, ...] = ()
    """Of an interval its ends; of tuples and sets their members."""
    open_ends: tuple[bool, bool] = (False, False)
    """Of an interval."""


def fingerprint(expression: Any) -> Fingerprint | None:
    """The fingerprint of a sympy object; None where only math-verify can tell."""
    from sympy import Expr, FiniteSet, Interval, Symbol, Tuple

    if isinstance(expression, Interval):
        ends = (fingerprint(expression.start), fingerprint(expression.end))
        return Fingerprint(
            "interval", members=ends, open_ends=(bool(expression.left_open), bool(expression.right_open))
        )
    if isinstance(expression, (FiniteSet, Tuple)):
        kind: Kind = "set" if isinstance(expression, FiniteSet) else "tuple"
        return Fingerprint(kind, members=tuple(fingerprint(member) for member in expression.args))
    if not isinstance(expression, Expr) or isinstance(expression, Symbol) or _is_special(expression):
        return None
    letters = tuple(sorted(str(symbol) for symbol in expression.free_symbols))
    values = _values(expression, letters)
    return None if values is None else Fingerprint("value", letters, values)


def surely_differ(one: Fingerprint | None, other: Fingerprint | None, *, strict: bool, decimals: int) -> bool:
    """Whether math-verify would surely find two answers unequal, in both directions.

    Args:
        one: an answer.
        other: another.
        strict: its option; without it letters may be exchanged, so expressions with letters are never rejected.
        decimals: its float_rounding: numbers may differ by that much and be equal.
    """
    if one is None or other is None:
        return False
    kinds = {one.kind, other.kind}
    if kinds == {"value"}:
        return _values_differ(one, other, strict, decimals)

    def differ(pair: tuple[Fingerprint | None, Fingerprint | None]) -> bool:
        return surely_differ(*pair, strict=strict, decimals=decimals)

    if kinds == {"interval"}:
        pairs = zip(one.members, other.members, strict=True)
        return one.open_ends != other.open_ends or any(differ(pair) for pair in pairs)
    if "interval" in kinds:
        interval, rest = (one, other) if one.kind == "interval" else (other, one)
        is_point = not differ((interval.members[0], interval.members[1]))
        is_pair = all(interval.open_ends) and len(rest.members) == 2 and rest.kind != "value"
        return not is_point and not is_pair
    if "value" in kinds:
        return len((other if one.kind == "value" else one).members) != 1
    if len(one.members) != len(other.members):
        return True
    if kinds == {"tuple"}:
        return any(differ(pair) for pair in zip(one.members, other.members, strict=True))
    return kinds == {"set"} and any(all(differ((a, b)) for b in other.members) for a in one.members)


def _is_special(expression: Any) -> bool:
    """Whether math-verify has rules of its own for it: percentages, infinities, text."""
    from sympy import Dummy, UnevaluatedExpr, nan, oo, zoo

    return bool(expression.has(UnevaluatedExpr, Dummy, oo, -oo, zoo, nan)) or not expression.is_commutative


def _values(expression: Any, letters: tuple[str, ...]) -> tuple[complex, ...] | None:
    found = []
    for place in range(_PLACES if letters else 1):
        at = {symbol: _number_of(str(symbol), place) for symbol in expression.free_symbols}
        try:
            found.append(complex((expression.subs(at) if at else expression).evalf(15)))
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return None
    return tuple(found) if all(abs(value) < float("inf") for value in found) else None


def _number_of(letter: str, place: int) -> float:
    """A number in (1, 2) for a letter, the same in every process."""
    digest = hashlib.blake2b(f"{place}/{letter}".encode(), digest_size=4).digest()
    return 1 + (int.from_bytes(digest, "big") + 1) / (2**32 + 1)


def _values_differ(one: Fingerprint, other: Fingerprint, strict: bool, decimals: int) -> bool:
    if not strict and (one.letters or other.letters):
        return False
    allowed = 2 * 10.0**-decimals
    num = max(len(one.values), len(other.values))
    pairs = zip((one.values * num)[:num], (other.values * num)[:num], strict=True)
    return any(abs(a - b) > allowed + _RELATIVE * max(abs(a), abs(b)) for a, b in pairs)
