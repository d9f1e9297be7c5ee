"""Numbers without a parser: the same as math-verify says, wherever it can read them."""

from __future__ import annotations

import logging
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voting.answers.exact_numbers import numbers_equal, read_number
from voting.answers.reading import read

logging.getLogger("math_verify").setLevel(logging.ERROR)

_integers = st.integers(-(10**12), 10**12)


def _grouped(number: int) -> str:
    return f"{number:,}"


_exact = st.one_of(
    _integers.map(str),
    _integers.map(_grouped),
    st.tuples(_integers, st.integers(1, 10**6)).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.integers(1, 99), st.integers(1, 98), st.integers(2, 99)).map(
        lambda parts: rf"{parts[0]}\frac{{{parts[1]}}}{{{parts[2]}}}"
    ),
)


def _decimal(digits: int, places: int) -> str:
    sign, text = ("-" if digits < 0 else ""), str(abs(digits)).rjust(places + 1, "0")
    return f"{sign}{text[:-places]}.{text[-places:]}"


_decimals = st.builds(_decimal, st.integers(-(10**9), 10**9), st.integers(1, 6))


def _math_verify(first: str, second: str) -> bool:
    """The verdict of math-verify as it is, in either direction."""
    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    targets = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    one, other = (parse(rf"\boxed{{{text}}}", targets, parsing_timeout=None) for text in (first, second))
    return bool(verify(one, other, timeout_seconds=None) or verify(other, one, timeout_seconds=None))


def _ours(first: str, second: str) -> bool:
    one, other = read(first).number, read(second).number
    assert one is not None and other is not None
    return numbers_equal(one, other, 6)


@settings(max_examples=150, deadline=None)
@given(_exact, _exact)
def test_exact_numbers_are_compared_as_math_verify_compares_them(first: str, second: str) -> None:
    assert _ours(first, second) == _math_verify(first, second)
    assert _ours(first, first) and _math_verify(first, first)


@settings(max_examples=150, deadline=None)
@given(_decimals, st.one_of(_decimals, _exact))
def test_decimals_are_compared_as_math_verify_compares_them(first: str, second: str) -> None:
    assert _ours(first, second) == _math_verify(first, second)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9999), st.integers(1, 999))
def test_a_fraction_equals_its_decimal_to_six_places_and_not_to_three(above: int, below: int) -> None:
    fraction = Fraction(above, below)
    close, rough = (_decimal(round(fraction * 10**places), places) for places in (6, 3))
    assert _ours(rf"\frac{{{above}}}{{{below}}}", close) == _math_verify(rf"\frac{{{above}}}{{{below}}}", close)
    assert _ours(rf"\frac{{{above}}}{{{below}}}", rough) == (round(fraction, 6) == round(fraction, 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 500), st.integers(0, 500))
@example(1, 100)
@example(5, 500)
@example(50, 50)
def test_whole_percentages_are_compared_as_math_verify_compares_them(percent: int, number: int) -> None:
    for other in (str(number), _decimal(number, 2), rf"\frac{{{number}}}{{100}}", rf"{number}\%"):
        assert _ours(rf"{percent}\%", other) == _math_verify(rf"{percent}\%", other)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", Fraction(7)),
        (".5", Fraction(1, 2)),
        ("- 5", Fraction(-5)),
        ("--5", Fraction(5)),
        ("(-5)", Fraction(-5)),
        ("2 1/2", Fraction(5, 2)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        (r"1.5 \times 10^{3}", Fraction(1500)),
        ("1.5e-3", Fraction(3, 2000)),
        ("10^{20}", Fraction(10**20)),
        (r"0.\overline{142857}", Fraction(1, 7)),
        (r"0.1666\ldots", Fraction(1, 6)),
        ("3.14...", Fraction(157, 50)),
        ("(1011)_2", Fraction(11)),
        ("FF_{16}", Fraction(255)),
    ],
)
def test_the_value_of_a_number(text: str, value: Fraction) -> None:
    number = read_number(text)
    assert number is not None and number.value == value


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", "x", "1+1", "1/0", r"\frac{1}{0}", r"2\frac{1}{0}", "12_1", "19_8", "A_{16}", "a_2", "1 2", "1e9999"]
    + ["\u0663", "\uff11", "1" * 2000, "2!", "(1", "1,000", "()", "\u00bd"],
)
def test_what_is_no_plain_number(text: str) -> None:
    assert read_number(text) is None


def test_small_numbers_must_agree_in_their_digits_and_not_only_be_small() -> None:
    assert not _ours("0.0000001", "0.0000002")
    assert not _ours(r"1.6 \times 10^{-19}", "0")
    assert _ours(r"1.6 \times 10^{-19}", "1.6e-19")
