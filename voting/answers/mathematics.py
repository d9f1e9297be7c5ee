r"""The functions that run inside worker processes: read answers, compare them, ask math-verify about expressions.

Nothing here has a timeout of its own: the worker that runs it is killed at its deadline. Sameness is symmetric, but not
transitive (0.5 ~ 50% ~ 50); the callers deal with that.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from voting.answers.guards import has_balanced_braces, is_hopeless
from voting.answers.latex_parser import use_two_stage_parsing
from voting.answers.reading import Kind, Reading, read
from voting.answers.rejection import Fingerprint, fingerprint, surely_differ
from voting.answers.sameness import Rules, same

_PROBE = "123457"
"""What every expression is compared with once: one that cannot even be compared with a number is at fault itself."""

_MAX_EXPANDED_POWER = 12
"""Expressions with higher powers are not multiplied out."""


def is_comparable(answer: str) -> bool:
    r"""Whether an answer can go to `check` and `equal` at all; the others equal only their own text.

    Cheap, and safe on any text: it keeps out unbalanced braces and what would only burn a deadline (deep nesting,
    towers of exponents, thousands of digits; see `is_hopeless`).

    Example:
        >>> [is_comparable(answer) for answer in (r"\frac{1}{2}", "x y", "Paris", "}{", "10^{10^{10}}")]
        [True, True, True, False, False]
    """
    return has_balanced_braces(answer) and not is_hopeless(answer)


def check(answer: str, strict: bool, float_rounding: int, numeric_precision: int) -> bool:
    """Whether an answer can be read: each expression in it is parsed, and evaluated or compared with a plain number."""
    if not is_comparable(answer):
        return False
    reading = _read(answer)
    if reading.kind is Kind.EXPRESSION and not _parsed(reading.text):
        return False
    for expression in _expressions(reading):
        if _parsed(expression.text) and _fingerprint(expression.text) is None:
            _ask(expression.text, _PROBE, strict, float_rounding, numeric_precision)
    return True


def equal(first: str, second: str, strict: bool, float_rounding: int, numeric_precision: int) -> bool:
    """Whether two answers are the same, in either direction.

    Words are compared as words, numbers exactly or by their decimals, structures by their parts; expressions go to
    math-verify.

    Args:
        first: an answer; one for which `is_comparable` does not hold equals only its own text.
        second: another one.
        strict: whether variable names matter and sets differ from tuples.
        float_rounding: decimal places that two numbers must share.
        numeric_precision: digits that expressions are evaluated to.
    """
    ask = partial(_ask, strict=strict, float_rounding=float_rounding, numeric_precision=numeric_precision)
    return same(_read(first), _read(second), Rules(ask, strict, float_rounding))


_SAMPLES = (
    *(
        r"\frac{1}{2}",
        r"-\frac{3}{4}",
        "50\\%",
        "2+3I",
        "5!",
        r"\binom{5}{2}",
        r"10^{-3}",
        r"2 \cdot 3^5",
        r"\log_2 3",
        r"\ln 2",
    ),
    *(
        r"2\sqrt{3}",
        r"\sqrt{2} \cdot 3",
        r"3 - \sqrt{5}",
        r"\frac{2\sqrt{5}}{3}",
        r"\sqrt[3]{2}",
        r"\frac{1+\sqrt{5}}{2}",
    ),
    *(
        "x+1",
        r"3x^2-2x+1",
        "1 + 2x + x^2",
        "x^3 - 3x",
        r"\frac{x+1}{2}",
        r"\frac{1}{x} + 2",
        "(x+1)(x-2)",
        "(a+b)^2",
        "2xy",
    ),
    *(
        r"\sin x",
        r"\cos(2x)",
        r"\frac{\pi}{2}",
        r"2\pi r",
        "e^{x}",
        r"2^{n+1}",
        "a_{n+1}",
        "x_1",
        "|x|",
        r"\frac{\pi^2}{6}",
    ),
    *("x=3", "1<x<2", "4x + 3y = 12", r"(-\infty, 2)", r"[1, 2] \cup (3, 4)", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
)
"""Answers of many shapes: what the parser has seen once is quick, and every worker inherits it."""


def warm_up() -> None:
    """Import math-verify, make its parser fast and fill its caches, once, before workers are forked."""
    use_two_stage_parsing()
    for answer in _SAMPLES:
        _parsed(answer)
    for answer in _SAMPLES[::9]:
        _ask(answer, _PROBE, strict=True, float_rounding=6, numeric_precision=15)
    for first, second in (("(x+1)^2", "x^2+2x+1"), (r"2\sin x\cos x", r"\sin 2x"), ("2x+y=4", "2x-y=4")):
        _ask(first, second, strict=True, float_rounding=6, numeric_precision=15)


@lru_cache(maxsize=8192)
def _read(answer: str) -> Reading:
    return read(answer) if is_comparable(answer) else Reading(Kind.WORDS, answer)


def _expressions(reading: Reading) -> list[Reading]:
    if reading.kind is Kind.EXPRESSION:
        return [reading]
    return [expression for item in reading.items for expression in _expressions(item)]


def _ask(first: str, second: str, strict: bool, float_rounding: int, numeric_precision: int) -> bool:
    """Whether math-verify holds two expressions equal in either direction; clear differences are found without it."""
    one, other = _parsed(first), _parsed(second)
    if not one or not other:
        return first == second
    if first == second:
        return True
    if surely_differ(_fingerprint(first), _fingerprint(second), strict=strict, decimals=float_rounding):
        return False
    if _expand_alike(one[0], other[0]):
        return True
    if _verify(one[0], other[0], strict, float_rounding, numeric_precision):
        return True
    return _verify(other[0], one[0], strict, float_rounding, numeric_precision)


@lru_cache(maxsize=4096)
def _parsed(latex: str) -> tuple[Any, ...]:
    """The sympy object of an expression, alone in a tuple; empty when the parser cannot read it."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy

    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
    try:
        found = latex2sympy(latex, is_real=True, normalization_config=normalization)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (any failure of the parser means: not an expression)
        return ()
    return () if found is None else (found,)


@lru_cache(maxsize=4096)
def _fingerprint(latex: str) -> Fingerprint | None:
    return fingerprint(_parsed(latex)[0])


def _expand_alike(first: Any, second: Any) -> bool:
    """Whether the difference of two expressions vanishes once multiplied out, which is faster than simplifying it."""
    from sympy import Expr, Pow, expand

    if not isinstance(first, Expr) or not isinstance(second, Expr):
        return False
    powers = (power.exp for expression in (first, second) for power in expression.atoms(Pow))
    if any(exponent.is_Number and abs(exponent) > _MAX_EXPANDED_POWER for exponent in powers):
        return False
    try:
        return bool(expand(first - second) == 0)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (sympy cannot expand it: math-verify may know)
        return False


def _verify(gold: Any, answer: Any, strict: bool, rounding: int, precision: int) -> bool:
    from math_verify import verify

    try:
        return bool(
            verify(
                gold,
                answer,
                float_rounding=rounding,
                numeric_precision=precision,
                strict=strict,
                timeout_seconds=None,
                raise_on_error=True,
            )
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (sympy cannot compare them: they are not known to be equal)
        return False
