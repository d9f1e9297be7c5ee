"""Reading a whole answer as one number, and equality within a tolerance."""

from __future__ import annotations

import math
import sys
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from voting.answers.numeric import MAX_CHARACTERS, MAX_EXPONENT, Number, numbers_equal, numeric_value

MINUS = "\u2212"

numbers = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30),
    st.fractions(),
    st.integers().map(Decimal),
)
tolerances = st.floats(min_value=0, max_value=10, allow_nan=False)
ordinary_floats = st.one_of(st.just(0.0), st.floats(1e-60, 1e60), st.floats(-1e60, -1e-60))
texts = st.one_of(st.text(), st.text("0123456789.,+-eE/%$ {}\\()^*xfrac" + MINUS))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7),
        (" 7\n", 7),
        ("007", 7),
        (".5", "0.5"),
        ("5.", 5),
        ("7.50", "7.5"),
        ("-5", -5),
        ("+5", 5),
        ("- 5", -5),
        (MINUS + "5.5", "-5.5"),
        ("-0", 0),
        ("1,000", 1000),
        ("12,345,678.9", "12345678.9"),
        ("1 000", 1000),
        ("1\u00a0000\u00a0000", 1_000_000),
        ("1{,}000", 1000),
        (r"1,\!000", 1000),
        (r"10\,000", 10_000),
        ("1/2", "1/2"),
        ("-6 / 4", "-3/2"),
        ("1,000/3", "1000/3"),
        (r"\frac{1}{2}", "1/2"),
        (r"\dfrac{10}{-4}", "-5/2"),
        (r"-\frac{ -1 }{3}", "1/3"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        (r"2\frac{3}{4}", "11/4"),
        ("1e5", 100_000),
        ("2.5E-3", "0.0025"),
        (r"1.5 \times 10^{5}", 150_000),
        ("1.5*10^5", 150_000),
        ("1.5*10**-2", "0.015"),
        ("-1.5 \u00d7 10^" + MINUS + "2", "-0.015"),
        (r"3 \cdot 10^{ 2 }", 300),
        ("$5", 5),
        (r"\$1,000.50", "1000.5"),
        ("-$5", -5),
        ("$-5", -5),
        ("\u20ac5", 5),
        ("5 \u20ac", 5),
        ("$5$", 5),
        ("$$ 5 $$", 5),
        (r"$\$5$", 5),
        (r"\(5\)", 5),
        (r"\[ \frac{1}{2} \]", "1/2"),
    ],
)
def test_a_number_is_read_exactly(answer: str, value: int | str) -> None:
    assert numeric_value(answer) == Fraction(value)


@pytest.mark.parametrize(
    "answer",
    [
        *("", " ", ".", "-", "$", "$$", "%", "e5", ",", "\\", "five", "5 apples", "x=5", "(5)", "5!", "10^5"),
        *("inf", "-Infinity", "nan", "NaN123", "0x10", "1_000", "\u0665", "\uff15", "\ud800"),
        *("1,2,3", "12,34", "1,0000", "1,000,00", "1,000 000", "0,123", "1 2", "1 00", ",000"),
        *("1/0", r"\frac{1}{0}", "1/2/3", "1/", "/2", "1.5/2", "1 3/2", "1 -1/2", "1 000/3", "1 200/300"),
        *(r"\frac{1}", r"\frac12", r"\frac{a}{b}", r"1 \frac{3}{2}", "1e", "1e5.5", "1.5*11^5", "1.5*10^"),
        *("--5", "-$-5", "$5%", "5%%", "$$5", "5-", "1-2", "\u20ac5\u20ac"),
    ],
)
def test_anything_else_is_no_number(answer: str) -> None:
    assert numeric_value(answer) is None


@pytest.mark.parametrize("answer", ["50%", r"50\%", "50 %", r"$50\%$", "5e1%", r"\frac{100}{2}%"])
def test_a_percent_is_a_share_or_a_number_as_asked(answer: str) -> None:
    assert numeric_value(answer) == Fraction(1, 2)
    assert numeric_value(answer, percent="number") == 50


def test_a_mixed_percent_is_exact() -> None:
    assert numeric_value(r"33 1/3 \%") == Fraction(1, 3)


@pytest.mark.parametrize("exponent", ["999999999", "-999999999", str(MAX_EXPONENT + 1), "9" * 900])
def test_a_power_of_ten_out_of_bounds_is_no_number(exponent: str) -> None:
    assert numeric_value(f"1e{exponent}") is None
    assert numeric_value(rf"1 \times 10^{{{exponent}}}") is None


def test_numbers_at_the_bounds_are_read_and_compared() -> None:
    largest, smallest = numeric_value(f"9e{MAX_EXPONENT}"), numeric_value(f"1e-{MAX_EXPONENT}")
    assert largest is not None and smallest is not None
    assert numbers_equal(largest, largest, relative_tolerance=0, absolute_tolerance=0)
    assert not numbers_equal(largest, smallest, relative_tolerance=0.5, absolute_tolerance=1e300)
    longest = numeric_value("7" * MAX_CHARACTERS)
    assert longest == int("7" * MAX_CHARACTERS)
    assert numeric_value("7" * (MAX_CHARACTERS + 1)) is None


@pytest.mark.parametrize("piece", ["7", "1,", "$", "-", " ", "1 ", "\\(", "1/", "{", r"\frac{", "%", "\u20ac"])
def test_a_text_of_any_length_is_judged_at_once(piece: str) -> None:
    start = time.process_time()
    for text in (piece * (10**6 // len(piece)), piece * (MAX_CHARACTERS // len(piece)), "1" + piece * 300 + "x"):
        numeric_value(text)
    assert time.process_time() - start < 0.5


@given(texts)
def test_reading_never_raises_and_what_is_read_equals_itself(text: str) -> None:
    for percent in ("share", "number"):
        value = numeric_value(text, percent=percent)
        assert value is None or numbers_equal(value, value, relative_tolerance=0, absolute_tolerance=0)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40), st.sampled_from("$ "))
def test_a_decimal_is_read_back_as_written(value: Decimal, wrapper: str) -> None:
    assert numeric_value(f"{wrapper}{value:f}{wrapper}") == value
    assert numeric_value(str(value).replace("-", MINUS)) == value
    assert numeric_value(f"{value:,f}") == value


@given(st.fractions())
def test_a_fraction_is_read_back_as_written(value: Fraction) -> None:
    assert numeric_value(str(value)) == value
    assert numeric_value(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value


@given(numbers, numbers, tolerances, tolerances)
def test_equality_is_symmetric(a: Number, b: Number, relative: float, absolute: float) -> None:
    there = numbers_equal(a, b, relative_tolerance=relative, absolute_tolerance=absolute)
    assert numbers_equal(b, a, relative_tolerance=relative, absolute_tolerance=absolute) is there


@given(numbers, tolerances, tolerances)
def test_equality_is_reflexive(a: Number, relative: float, absolute: float) -> None:
    assert numbers_equal(a, a, relative_tolerance=relative, absolute_tolerance=absolute)


@given(numbers, numbers)
def test_without_a_tolerance_equality_is_exact(a: Number, b: Number) -> None:
    assert numbers_equal(a, b, relative_tolerance=0, absolute_tolerance=0) is (Fraction(a) == Fraction(b))


@given(ordinary_floats, ordinary_floats | st.none(), st.floats(-3, 3), st.floats(1e-9, 0.9), st.floats(1e-12, 1e3))
def test_equality_agrees_with_math_isclose(
    a: float, other: float | None, steps: float, relative: float, absolute: float
) -> None:
    b = a * (1 + steps * relative) if other is None else other
    distance, allowed = abs(Fraction(a) - Fraction(b)), max(relative * max(abs(a), abs(b)), absolute)
    assume(abs(distance - Fraction(allowed)) > Fraction(allowed) / 10**6 or a == b)
    expected = math.isclose(a, b, rel_tol=relative, abs_tol=absolute)
    assert numbers_equal(Decimal(a), Fraction(b), relative_tolerance=relative, absolute_tolerance=absolute) is expected


@pytest.mark.parametrize("tolerance", [-1e-9, math.inf, math.nan])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="finite and >= 0"):
        numbers_equal(Decimal(1), Decimal(1), relative_tolerance=tolerance, absolute_tolerance=0)
    with pytest.raises(ValueError, match="finite and >= 0"):
        numbers_equal(Decimal(1), Decimal(1), relative_tolerance=0, absolute_tolerance=tolerance)


def test_the_bounds_stay_below_what_python_reads_as_an_integer() -> None:
    assert sys.get_int_max_str_digits() == 0 or sys.get_int_max_str_digits() > MAX_CHARACTERS
