r"""What makes an answer hopeless: seen in one pass over its text, before any parser or evaluation touches it.

A hopeless answer still votes; it equals only its own text. The limits lie far above what answers to problems look like
and far below what keeps a parser or an evaluation busy until its deadline.
"""

from __future__ import annotations

import re

MAX_DEPTH = 20
"""Brackets inside brackets: at 20 a parse takes about 2 s, at 40 it takes 6 s."""
MAX_DIGITS = 1000
"""Digits in the whole answer."""
MAX_COMMANDS = 300
r"""Backslashes in the whole answer, e.g. \sqrt\sqrt\sqrt."""
MAX_CELLS = 400
"""Matrix cells, list items and other things that commas, ampersands and semicolons part."""
MAX_REPEATED = 12
"""Prefix operators in a row: minus signs, commands without braces."""
MAX_EXPONENT = 10_000
"""Exponents, limits of sums and the powers of ten of decimal notation."""
MAX_FACTORIAL = 3_000
"""Numbers under a factorial or in a binomial coefficient."""

_BAD_CHARACTER = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_BRACKET = re.compile(r"\\.|[()\[\]{}]", re.DOTALL)
_STEPS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1, r"\{": 1, r"\}": -1}
_REPEATED = re.compile(rf"(?:[-+]\s*){{{MAX_REPEATED},}}|(?:\\[A-Za-z]+\s*){{{MAX_REPEATED},}}")
_POWERS_OF_POWERS = re.compile(r"(?:[)}]\s*(?:\^|\*\*)\s*[{(]?\s*[0-9]+\s*[})]?\s*){3}")
_PART = re.compile(r"[,;&]|\\\\")
_POWER = re.compile(r"(?:\^|\*\*)[\s{(+-]*([0-9][0-9,]*)")
_TEN_POWER = re.compile(r"[0-9.][eE][+-]?0*([0-9]{4,})")
_FACTORIAL = re.compile(r"([0-9]+)[\s})\]]*!([\s})\]]*!)?")
_BINOMIAL = re.compile(r"\\[dt]?binom|\\choose|![0-9]")
_NUMBER = re.compile(r"[0-9]+")
_TOKEN = re.compile(r"\*\*|\\[A-Za-z]+|\\.|[0-9]+|\S")
_CARETS, _OPENING, _CLOSING = frozenset({"^", "**"}), frozenset("([{"), frozenset(")]}")
_POWER_IN_EXPONENT = re.compile(r"(?:\^|\*\*)\s*[({][^{}^]*?([0-9]+)\s*(?:\^|\*\*)[\s{(+]*([0-9]+)")


def has_balanced_braces(answer: str) -> bool:
    r"""Whether every { has its }, in order; escaped braces (\{) do not count.

    Example:
        >>> has_balanced_braces(r"\frac{1}{2}"), has_balanced_braces("}{")
        (True, False)
    """
    depth = 0
    for brace in _BRACKET.findall(answer):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def is_hopeless(answer: str) -> bool:
    r"""Whether reading or evaluating this answer would likely burn a deadline.

    Deep nesting, thousands of digits, towers of exponents, enormous exponents, factorials and binomials, hundreds of
    matrix cells, characters that no answer has (NUL, surrogates). Linear in the text; says nothing about what is
    merely wrong, and cannot see everything: the deadline of the worker is what bounds the rest.

    Example:
        >>> [is_hopeless(a) for a in (r"10^{10^{10}}", "9^{9^{9^9}}", "100000!", "((" * 99, "1e999999999")]
        [True, True, True, True, True]
        >>> [is_hopeless(a) for a in ("2^{3^2}", "e^{x^2}", "20!", "3^{2024}", "6.02e23", "(1, 2)")]
        [False, False, False, False, False, False]
    """
    if len(answer) <= 64 and answer.isascii() and (answer.isdigit() or answer.isalpha()):
        return False
    return (
        _BAD_CHARACTER.search(answer) is not None
        or answer.count("\\") > MAX_COMMANDS
        or sum(map(len, _NUMBER.findall(answer))) > MAX_DIGITS
        or len(_PART.findall(answer)) > MAX_CELLS
        or _is_too_deep(answer)
        or _REPEATED.search(answer) is not None
        or _has_huge_number(answer)
        or _POWERS_OF_POWERS.search(answer) is not None
        or _has_tower(answer)
    )


def _is_too_deep(answer: str) -> bool:
    depth = deepest = 0
    for bracket in _BRACKET.findall(answer):
        depth += _STEPS.get(bracket, 0)
        deepest = max(deepest, depth, -depth)
    return deepest > MAX_DEPTH


def _has_huge_number(answer: str) -> bool:
    if any(_exceeds(digits.replace(",", ""), MAX_EXPONENT) for digits in _POWER.findall(answer)):
        return True
    if any(_exceeds(digits, MAX_EXPONENT) for digits in _TEN_POWER.findall(answer)):
        return True
    if "!" in answer:
        if any(_exceeds(digits, 6 if twice else MAX_FACTORIAL) for digits, twice in _FACTORIAL.findall(answer)):
            return True
    if _BINOMIAL.search(answer):
        return any(_exceeds(digits, MAX_FACTORIAL) for digits in _NUMBER.findall(answer))
    return False


def _exceeds(digits: str, limit: int) -> bool:
    return len(digits.lstrip("0")) > 9 or int(digits or 0) > limit


def _has_tower(answer: str) -> bool:
    """Whether exponents are stacked three high, or two high with numbers that make the upper one large."""
    if answer.count("^") + answer.count("**") < 2:
        return False
    stack: list[bool] = []
    before, last = "", ""
    closed_exponent = False
    for token in _TOKEN.findall(answer.strip("* ")):
        if token in _CARETS:
            if last in _CARETS or closed_exponent or before in _CARETS:
                return True
        elif token in _OPENING:
            stack.append(last in _CARETS)
            if sum(stack) > 2:
                return True
        closed_exponent = token in _CLOSING and bool(stack) and stack.pop()
        before, last = last, token
    return any(_is_large_power(base, exponent) for base, exponent in _POWER_IN_EXPONENT.findall(answer))


def _is_large_power(base: str, exponent: str) -> bool:
    return _exceeds(base, MAX_EXPONENT) or _exceeds(exponent, 14) or int(base) ** int(exponent or 0) > MAX_EXPONENT
