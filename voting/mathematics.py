r"""The functions that run inside worker processes: parse and compare with math-verify.

Nothing here has a timeout of its own: the worker that runs it is killed at its deadline. math-verify is neither
symmetric (`1<x<2` against `(1,2)`) nor transitive (0.5 ~ 50% ~ 50); the callers deal with both.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_WORDS = re.compile(r"[A-Za-z]{3}")
_MATHEMATICAL = re.compile(r"[0-9\\=+*/^_<>(){}|\[\]-]")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_PROBE = "123457"
"""What every answer is compared with once: an answer that cannot even be compared with a number is at fault itself."""


def is_comparable(answer: str) -> bool:
    r"""Whether an answer can go to math-verify at all; the others equal only their own text.

    Words are left out: math-verify reads them as products of letters, so that "listen" would equal "silent".
    So are unbalanced braces, which would escape the box that the answer is parsed in.

    Example:
        >>> [is_comparable(answer) for answer in (r"\frac{1}{2}", "x y", "Paris", "}{")]
        [True, True, False, False]
    """
    if _WORDS.search(answer) and not _MATHEMATICAL.search(answer):
        return False
    depth = 0
    for brace in _BRACE.findall(answer):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def check(answer: str, strict: bool, float_rounding: int, numeric_precision: int) -> bool:
    """Whether math-verify can read `answer`: parses it and compares it once with a plain number."""
    if not _parsed(answer):
        return False
    equal(answer, _PROBE, strict, float_rounding, numeric_precision)
    return True


def equal(first: str, second: str, strict: bool, float_rounding: int, numeric_precision: int) -> bool:
    """Whether math-verify holds two answers equal in either direction."""
    one, other = _parsed(first), _parsed(second)
    if not one or not other:
        return False
    if _verify(one, other, strict, float_rounding, numeric_precision):
        return True
    if _is_number(one) and _is_number(other):
        return False
    return _verify(other, one, strict, float_rounding, numeric_precision)


def warm_up() -> None:
    """Import math-verify and fill its parser's caches, once, before workers are forked."""
    samples = (r"\frac{1}{2}", "0.5", "50\\%", "x+1", "(1, 2]", "\\{1,2\\}", "2\\sqrt{3}", "x=3", "1<x<2", "(1,2,3)")
    for answer in samples:
        for other in ("3", samples[0]):
            equal(answer, other, True, 6, 15)


@lru_cache(maxsize=4096)
def _parsed(answer: str) -> tuple[Any, ...]:
    """Sympy expression and text of an answer; empty when math-verify finds no expression in it."""
    from math_verify import parse
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    targets = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    try:
        found = parse("\\boxed{" + answer + "}", targets, parsing_timeout=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (any failure of the parser means: not an expression)
        return ()
    return tuple(found) if any(not isinstance(item, str) for item in found) else ()


def _verify(gold: tuple[Any, ...], answer: tuple[Any, ...], strict: bool, rounding: int, precision: int) -> bool:
    from math_verify import verify

    try:
        return bool(
            verify(
                list(gold),
                list(answer),
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


def _is_number(parsed: tuple[Any, ...]) -> bool:
    return bool(getattr(parsed[0], "is_Number", False))
