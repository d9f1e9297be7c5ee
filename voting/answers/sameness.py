r"""When two readings are the same answer; whatever is neither a number nor a structure is asked of the parser.

Symmetric when `ask` is. Not transitive: "x = 3" and "y = 3" both equal "3", and so it is with units and percentages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from voting.answers.exact_numbers import numbers_equal
from voting.answers.reading import Kind, Reading
from voting.answers.tokens import RELATIONS, top_level
from voting.answers.units import units_contradict
from voting.answers.words import words_key

_ORDERED = frozenset({Kind.TUPLE, Kind.INTERVAL})
_UNORDERED = frozenset({Kind.LIST, Kind.SET, Kind.UNION})
_SETS = frozenset({Kind.TUPLE, Kind.INTERVAL, Kind.UNION, Kind.SET, Kind.LIST})
_SET_SIGNS = ("<", r"\le", r"\ge", ">", r"\ne", "=", r"\mathbb", r"\setminus", r"\cap", r"\cup", "|", r"\emptyset")


@dataclass(frozen=True, slots=True)
class Rules:
    """What sameness depends on."""

    ask: Callable[[str, str], bool]
    """Whether two expressions, in LaTeX, are equal."""
    strict: bool
    """Whether a set differs from a tuple."""
    float_rounding: int
    """Decimal places that two numbers must share."""


def same(first: Reading, second: Reading, rules: Rules) -> bool:
    """Whether two readings are one answer. Recursive in their structure, which has few levels."""
    if units_contradict(_unit(first), _unit(second)):
        return False
    if first.kind > second.kind:
        first, second = second, first
    if first.kind is second.kind:
        return _same_kind(first, second, rules)
    kinds = {first.kind, second.kind}
    if Kind.WORDS in kinds:
        return words_key(first.text) == words_key(second.text) and not first.unit and not second.unit
    if Kind.EQUATION in kinds:
        equation, other = (first, second) if first.kind is Kind.EQUATION else (second, first)
        return _equation_and(equation, other, rules)
    if Kind.RESIDUE in kinds:
        residue, other = (first, second) if first.kind is Kind.RESIDUE else (second, first)
        return same(residue.items[0], other, rules)
    if Kind.RATIO in kinds:
        ratio, other = (first, second) if first.kind is Kind.RATIO else (second, first)
        return _ratio_and(ratio, other, rules)
    if kinds <= _SETS | {Kind.MATRIX}:
        return _structures(first, second, rules)
    if kinds & (_SETS | {Kind.MATRIX}):
        other = second if first.kind in _SETS or first.kind is Kind.MATRIX else first
        is_set = other.kind is Kind.EXPRESSION and any(sign in other.text for sign in _SET_SIGNS)
        return is_set and rules.ask(first.text, second.text)
    return _is_relation(first) == _is_relation(second) and rules.ask(first.text, second.text)


def _is_relation(reading: Reading) -> bool:
    return reading.kind is Kind.EXPRESSION and any(token in RELATIONS for token, _, _ in top_level(reading.text))


def _unit(reading: Reading) -> str:
    return reading.unit or ("percent" if reading.number and reading.number.is_percent else "")


def _same_kind(first: Reading, second: Reading, rules: Rules) -> bool:
    if first.kind is Kind.WORDS:
        return first.text == second.text
    if first.number is not None and second.number is not None:
        return numbers_equal(first.number, second.number, rules.float_rounding)
    if first.kind is Kind.EQUATION:
        if first.name == second.name:
            return same(first.items[0], second.items[0], rules)
        return rules.ask(first.text, second.text)
    if first.kind is Kind.INTERVAL and first.name != second.name:
        return False
    if first.kind is Kind.RATIO:
        return _same_ratio(first, second)
    if first.kind is Kind.RESIDUE:
        return _same_residue(first, second, rules)
    if first.kind in _UNORDERED:
        return _unordered(_distinct(first), _distinct(second), rules)
    if first.items:
        return _ordered(first.items, second.items, rules)
    return _is_relation(first) == _is_relation(second) and rules.ask(first.text, second.text)


def _structures(first: Reading, second: Reading, rules: Rules) -> bool:
    """Two collections of different kinds."""
    kinds = {first.kind, second.kind}
    if Kind.MATRIX in kinds or (Kind.INTERVAL in kinds and Kind.UNION not in kinds):
        return False
    if kinds == {Kind.LIST, Kind.TUPLE}:
        return _ordered(first.items, second.items, rules)
    if kinds == {Kind.SET, Kind.TUPLE}:
        return not rules.strict and _unordered(first.items, second.items, rules)
    if Kind.UNION in kinds and not kinds & {Kind.LIST}:
        return rules.ask(first.text, second.text)
    return _unordered(_distinct(first), _distinct(second), rules)


def _distinct(reading: Reading) -> Sequence[Reading]:
    """Elements; those of a set without repetitions of the same text."""
    return list({item.text: item for item in reading.items}.values()) if reading.kind is Kind.SET else reading.items


def _ordered(first: Sequence[Reading], second: Sequence[Reading], rules: Rules) -> bool:
    return len(first) == len(second) and all(same(a, b, rules) for a, b in zip(first, second, strict=True))


def _unordered(first: Sequence[Reading], second: Sequence[Reading], rules: Rules) -> bool:
    """Whether each element finds a partner of its own; those with the same text are paired first."""
    if len(first) != len(second):
        return False
    left = list(second)
    rest = []
    for item in first:
        twin = next((other for other in left if other == item), None)
        if twin is None:
            rest.append(item)
        else:
            left.remove(twin)
    for item in rest:
        partner = next((other for other in left if same(item, other, rules)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _equation_and(equation: Reading, other: Reading, rules: Rules) -> bool:
    """An equation of a name, and an answer that is none: its value counts, unless the other is a relation."""
    if _is_relation(other):
        return rules.ask(equation.text, other.text)
    return same(equation.items[0], other, rules)


def _ratio_and(ratio: Reading, other: Reading, rules: Rules) -> bool:
    if len(ratio.items) != 2 or other.kind not in (Kind.NUMBER, Kind.EXPRESSION):
        return False
    above, below = (item.number for item in ratio.items)
    assert above is not None and below is not None
    if not below.value:
        return False
    if other.number is not None:
        value = replace(above, value=above.value / below.value)
        return numbers_equal(value, other.number, rules.float_rounding)
    return rules.ask(rf"\frac{{{above.value}}}{{{below.value}}}", other.text)


def _same_ratio(first: Reading, second: Reading) -> bool:
    """Proportional; two times of day (10:15 and 2:03) only when they are the same."""
    if len(first.items) != len(second.items):
        return False
    values = [[item.number.value for item in reading.items if item.number] for reading in (first, second)]
    if all(_is_time(reading) for reading in (first, second)):
        return values[0] == values[1]
    scales = [max(numbers) for numbers in values]
    return all(scales) and [number * scales[1] for number in values[0]] == [number * scales[0] for number in values[1]]


def _is_time(reading: Reading) -> bool:
    hours, _, minutes = reading.text.partition(":")
    return len(minutes.strip()) == 2 and minutes.strip() < "60" and len(hours.strip()) <= 2


def _same_residue(first: Reading, second: Reading, rules: Rules) -> bool:
    if not same(first.items[1], second.items[1], rules):
        return False
    one, other, modulus = first.items[0].number, second.items[0].number, first.items[1].number
    if one and other and modulus and modulus.value:
        return (one.value - other.value) % modulus.value == 0
    return same(first.items[0], second.items[0], rules)
