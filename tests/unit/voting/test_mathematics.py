"""The functions that workers run, called directly on answers that end."""

from __future__ import annotations

import pytest

from voting.answers.mathematics import check, equal, is_comparable, warm_up

_SETTINGS = (True, 6, 15)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("1,234", "1234"),
        ("x=3", "3"),
        ("1<x<2", "(1,2)"),
        ("x = 1, y = 2", "(1, 2)"),
        (r"25 \text{ cm}^2", "25"),
        (r"\{3, 1, 2\}", "1, 2, 3"),
        (r"x = \pm 2", "2, -2"),
        ("1011_2", "11"),
        (r"\text{Monday}", "monday."),
        (r"\textbf{(B)}\ 7", "B"),
        ("e^{i\\pi}", "-1"),
        (r"x \equiv 9 \pmod{7}", r"2 \pmod 7"),
        (r"\begin{pmatrix} 1 \\ 0.5 \end{pmatrix}", r"\langle 1, \frac12 \rangle"),
        ("7 million", "7,000,000"),
    ],
)
def test_one_answer_in_two_spellings_is_one(first: str, second: str) -> None:
    assert equal(first, second, *_SETTINGS)
    assert equal(second, first, *_SETTINGS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("(1,2)", "(2,1)"),
        (r"\{1,2\}", "(1,2)"),
        ("[0,1]", "(0,1)"),
        ("1:2:3", "1:6"),
        (r"5 \text{ cm}", r"5 \text{ m}"),
        (r"\$20", "20\\%"),
        ("2t", "2"),
        ("x^2+y^2=25", "25"),
        ("12_3", "12_4"),
        (r"\angle ABC", r"\angle BCA"),
        ("2^{2023}", "2^{2024}"),
        (r"6.6 \times 10^{-34}", r"9.1 \times 10^{-31}"),
        ("x'", "x"),
        ("x=3", "y=3"),
    ],
)
def test_two_answers_that_look_alike_are_two(first: str, second: str) -> None:
    assert not equal(first, second, *_SETTINGS)
    assert not equal(second, first, *_SETTINGS)


@pytest.mark.parametrize(
    "form",
    ["{}", r"\text{{{}}}", r"\mathrm{{{}}}", "${}$", "**{}**", "x = {}", r"3 \text{{ {}}}", "{}^2", "2{} + 1", "{}!"],
)
@pytest.mark.parametrize("strict", [True, False])
def test_listen_never_equals_silent(form: str, strict: bool) -> None:
    assert not equal(form.format("listen"), form.format("silent"), strict, 6, 15)
    assert equal(form.format("listen"), form.format("listen"), strict, 6, 15)


def test_sets_equal_tuples_where_strictness_is_off() -> None:
    assert equal(r"\{1,2\}", "(2,1)", False, 6, 15)
    assert equal("x+1", "y+1", False, 6, 15)
    assert not equal("x+1", "y+1", *_SETTINGS)


def test_decimals_are_compared_to_the_places_asked_for() -> None:
    assert equal("0.333", r"\frac{1}{3}", True, 3, 15)
    assert not equal("0.333", r"\frac{1}{3}", True, 4, 15)


def test_what_cannot_be_read_equals_only_its_own_text() -> None:
    broken = r"\frac{1}{"
    assert not is_comparable(broken)
    assert not check(r"x \foo{} ^ ^", *_SETTINGS)
    assert not equal(r"x ++* ) y", "x", *_SETTINGS)


def test_every_readable_answer_passes_the_check() -> None:
    answers = ("7", "Paris", r"\frac{x+1}{2}", "(1, x]", r"\{1, 2\}", "x=3", r"5 \text{ cm}", "1:2", r"3 \pmod 7")
    assert all(check(answer, *_SETTINGS) for answer in answers)
