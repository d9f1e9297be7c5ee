"""One spelling per answer: layout, typographic characters and synonyms go, meaning stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.answers.characters import plain_characters
from voting.answers.expressions import expression_latex
from voting.answers.spelling import respell, trimmed
from voting.answers.tokens import SEPARATORS, bracketed, split, top_level


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        (r"\left( 1,\, 2 \right)", "( 1, 2 )"),
        (r"\bigl[0,1\bigr)", "[0,1)"),
        (r"\displaystyle\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{3}4", r"\frac{3}{4}"),
        (r"\frac {5} {6}", r"\frac{5}{6}"),
        (r"{5 \over 9}", r"\frac{5 }{ 9}"),
        (r"{5 \choose 2}", r"\binom{5 }{ 2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("sqrt(2)", r"\sqrt{2}"),
        ("sin(x)", r"\sin(x)"),
        ("2pi", r"2\pi"),
        ("x**2", "x^2"),
        (r"\textcolor{red}{7}", "7"),
        (r"\boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\mathbf{7}", "7"),
        ("**7**", "7"),
        ("`17`", "17"),
        (r"12 \qquad", "12"),
        (r"12\\", "12"),
        ("= 12", "12"),
        (r"\approx 3.14", "3.14"),
        (r"\text{Answer: } 12", "12"),
        ("The answer is 12", "12"),
        (r"50\text{ percent}", r"50\%"),
        ("50%", r"50\%"),
        ("$5", r"\$5"),
        ("$x$ and $y$", "x and y"),
        (r"x\geqslant 3", r"x\ge 3"),
        (r"\varnothing", r"\emptyset"),
        ("f'(x)", "f_{prime}(x)"),
        (r"90^{\circ}", r"90^\circ"),
    ],
)
def test_layout_and_synonyms_go(spelled: str, plain: str) -> None:
    assert " ".join(respell(spelled).split()) == plain


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("1,234,567", "1234567"),
        ("1{,}000", "1000"),
        (r"10,\!080", "10080"),
        (r"12\,345", "12345"),
        ("1 000 000", "1000000"),
        ("1,000, 2", "1000, 2"),
        ("(1,000, 2)", "(1000, 2)"),
        ("(10,000)", "(10000)"),
        (r"\frac{1,000}{3}", r"\frac{1000}{3}"),
        ("3{,}14", "3.14"),
    ],
)
def test_separators_of_thousands_go(spelled: str, plain: str) -> None:
    assert respell(spelled) == plain


@pytest.mark.parametrize(
    "spelled", ["1,2,3", "(100,200)", "1,23", "12,34", "0,5", r"\{100,200\}", "1, 000", "2 10", "1,000,5"]
)
def test_other_commas_and_blanks_stay(spelled: str) -> None:
    assert respell(spelled) == spelled


@pytest.mark.parametrize(
    ("typographic", "latex"),
    [
        ("\u22125", "-5"),
        ("2\u221a3", r"2\sqrt{3}"),
        ("\u221a(x+1)", r"\sqrt(x+1)"),
        ("x\u00b2\u207b\u00b9", "x^{2-1}"),
        ("2\u00bd", r"2\frac{1}{2}"),
        ("90\u00b0", r"90^\circ "),
        ("a\u2081", "a_{1}"),
        ("1\u200b2\ufeff", "12"),
        ("1\u202f000", "1 000"),
        ("\u4e09", "\u4e09"),
    ],
)
def test_typographic_characters_become_latex(typographic: str, latex: str) -> None:
    assert plain_characters(typographic) == latex


@given(st.text(alphabet="\\{}()[],.;$ 012ax^_-=", max_size=30))
def test_trimming_is_idempotent(text: str) -> None:
    assert trimmed(trimmed(text)) == trimmed(text)


@given(st.text(alphabet="\\{}()[],; 1a", max_size=30))
def test_splitting_loses_nothing_but_separators_and_blanks(text: str) -> None:
    kept = "".join(split(text, SEPARATORS)).replace(" ", "").replace(",", "").replace(";", "")
    assert kept == text.replace(" ", "").replace(",", "").replace(";", "")


def test_only_the_outermost_level_is_split() -> None:
    assert split(r"f(1, 2), \{3, 4\} and \frac{a,b}{c}", SEPARATORS) == ["f(1, 2)", r"\{3, 4\}", r"\frac{a,b}{c}"]
    assert top_level("(1, 2") == top_level("1), (2") == []
    assert bracketed("(1)+(2)") is None
    assert bracketed(r"\langle 1, 2 \rangle") == (r"\langle", "1, 2", r"\rangle")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a+bi", "a+bI"),
        ("i^2", "(I)^2"),
        (r"e^{i\pi}", r"e^{I\pi}"),
        (r"\sin x", r"\sin x"),
        (r"\sum_{i=1}^n i", r"\sum_{i=1}^n i"),
        ("x_i", "x_i"),
        (r"\sin 30^\circ", r"\sin \frac{30\pi}{180}"),
        ("3 > x", "x < 3"),
        (r"5 > x \ge 1", r"1 \le x < 5"),
        ("x > 3, y > 2", "x > 3, y > 2"),
        (r"H_2\text{O}", "H_2O"),
    ],
)
def test_what_the_parser_misreads_is_rewritten(text: str, latex: str) -> None:
    assert expression_latex(text) == latex
