"""What an answer is taken for: its kind, its parts, its unit; and how readings compare without any parser."""

from __future__ import annotations

import pytest

from voting.answers.reading import Kind, Reading, read
from voting.answers.sameness import Rules, same
from voting.answers.units import split_unit, units_contradict
from voting.answers.words import words_key


def _never(first: str, second: str) -> bool:
    raise AssertionError(f"the parser was asked about {first!r} and {second!r}")


def _same(first: str, second: str, *, strict: bool = True) -> bool:
    return same(read(first), read(second), Rules(_never, strict, 6))


def _texts(reading: Reading) -> list[str]:
    return [item.text for item in reading.items]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("42", Kind.NUMBER),
        (r"-2\frac{1}{2}", Kind.NUMBER),
        ("(-5)", Kind.NUMBER),
        (r"\{3\}", Kind.NUMBER),
        ("x+1", Kind.EXPRESSION),
        ("A", Kind.EXPRESSION),
        ("1, 2", Kind.LIST),
        (r"\pm 2", Kind.LIST),
        ("x = 2 or x = 3", Kind.LIST),
        (r"\{1,2\}", Kind.SET),
        ("(1,2)", Kind.TUPLE),
        ("P(1,2)", Kind.TUPLE),
        ("[1,2,3]", Kind.TUPLE),
        (r"\langle 1,2\rangle", Kind.TUPLE),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", Kind.TUPLE),
        ("[0,1)", Kind.INTERVAL),
        (r"[0,1]\cup[2,3]", Kind.UNION),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", Kind.MATRIX),
        ("[[1,2],[3,4]]", Kind.MATRIX),
        ("f(x) = 2x", Kind.EQUATION),
        (r"x \in [0,1]", Kind.EQUATION),
        ("3 = x", Kind.EQUATION),
        ("x^2+y^2=1", Kind.EXPRESSION),
        (r"x \equiv 3 \pmod{7}", Kind.RESIDUE),
        ("3:4", Kind.RATIO),
        ("3 to 4", Kind.RATIO),
        ("no solution", Kind.WORDS),
        (r"\text{even}", Kind.WORDS),
        ("at least 5", Kind.WORDS),
        (r"\angle ABC", Kind.WORDS),
        ("", Kind.EXPRESSION),
    ],
)
def test_the_kind_of_an_answer(answer: str, kind: Kind) -> None:
    assert read(answer).kind is kind


def test_parts_are_read_in_turn() -> None:
    assert _texts(read(r"(1,\ x=2, \{3,4\})")) == ["1", "x=2", r"\{3,4\}"]
    assert _texts(read(r"\{0, \pm 1\}")) == ["0", "+ 1", "- 1"]
    assert [_texts(row) for row in read(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}").items] == [["1", "2"], ["3", "4"]]
    assert read(r"\{x \mid x > 0\}").text == "0 < x"
    assert read(r"\textbf{(D)}\ 12").text == read("Option D").text == "D"


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5 \text{cm}", "5", "cm"),
        (r"25 \text{cm}^2", "25", "cm^2"),
        ("25 square centimeters", "25", "cm^2"),
        (r"9.8 \text{m/s}^2", "9.8", "m s^-2"),
        ("60 km/h", "60", "h^-1 km"),
        (r"36\pi cubic inches", r"36\pi", "in^3"),
        ("5cm", "5", "cm"),
        ("5 m", "5", "m"),
        (r"\$5", "5", "dollar"),
        (r"-\$5", "-5", "dollar"),
        ("18.90 dollars", "18.90", "dollar"),
        (r"\euro 20", "20", "euro"),
        (r"90^\circ", "90", "degree"),
        (r"20^\circ \text{C}", "20", "celsius"),
        ("12 apples", "12", "? apple"),
        (r"6 \text{different ways}", "6", "? different way"),
        (r"7 \text{million}", r"7 \cdot 10^{6}", ""),
        (r"\$2 million", r"2 \cdot 10^{6}", "dollar"),
    ],
)
def test_units_are_split_off(text: str, value: str, unit: str) -> None:
    assert split_unit(text) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "2t",
        "3h",
        "x + 2m",
        "2x",
        "2 x",
        "5 or more",
        r"5 \text{ or more}",
        "3 in a row",
        r"\sin 30^\circ",
        "m",
        "x m",
        "3rd",
    ],
)
def test_variables_and_conjunctions_are_no_units(text: str) -> None:
    assert split_unit(text) == (text, "")


def test_only_two_units_of_one_sort_can_contradict() -> None:
    assert units_contradict("cm", "m") and units_contradict("cm", "cm^2") and units_contradict("? apple", "? orange")
    assert not any(units_contradict("cm", other) for other in ("", "cm", "? unit"))
    assert not units_contradict("? different way", "? way")


def test_words_are_compared_without_case_fonts_and_articles() -> None:
    keys = {words_key(text) for text in ("ellipse", r"\text{An ellipse}.", "the Ellipse", '"ellipse"')}
    assert keys == {"ellipse"}
    assert words_key("listen") != words_key("silent")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1, 2, 3", "3, 1, 2"),
        (r"\{1,2\}", "2 and 1"),
        (r"\{1,2,2\}", r"\{2,1\}"),
        ("(1, 0.5)", r"(1, \frac12)"),
        ("x=1, y=2", "(1,2)"),
        ("x=2", "2"),
        ("[0, 1)", "[0,1.0)"),
        ("[0,1]\\cup[2,3]", "[2,3] \\cup [0,1]"),
        ("3:4", "6:8"),
        ("3:4", "0.75"),
        ("3:30 pm", "3:30"),
        ("7 a.m.", "7:00 am"),
        (r"9 \pmod 7", r"x \equiv 2 \pmod{7}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        ("5 cm", "5"),
        (r"50\%", "50"),
        ("Yes", r"\text{yes}."),
    ],
)
def test_readings_that_are_the_same(first: str, second: str) -> None:
    assert _same(first, second) and _same(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1, 2", "1, 3"),
        ("1, 1, 2", "1, 2, 2"),
        ("(1,2)", "(2,1)"),
        ("(2,1)", "1,2,3"),
        (r"\{1,2\}", "(1,2)"),
        ("[0,1]", "[0,1)"),
        ("[0,1]", r"\{0,1\}"),
        ("3:4", "4:3"),
        ("0:0", "1:2"),
        ("3:30", "1:10"),
        ("7 am", "7 pm"),
        (r"2 \pmod 7", r"2 \pmod 8"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}"),
        ("5 cm", "5 m"),
        ("12 apples", "12 oranges"),
        ("even", "2"),
        ("3", "(1,2)"),
        ("x=2", "x=3"),
    ],
)
def test_readings_that_differ(first: str, second: str) -> None:
    assert not _same(first, second) and not _same(second, first)


def test_a_set_equals_a_tuple_only_where_strictness_is_off() -> None:
    assert _same(r"\{1,2\}", "(2,1)", strict=False)


def test_structure_beyond_the_limits_is_an_expression() -> None:
    assert read(",".join(["1"] * 65)).kind is Kind.EXPRESSION
    assert read("(" * 12 + "1" + ", 2)" * 12).kind is Kind.TUPLE
