"""Sameness of answers: exact after normalisation, and mathematical in worker processes that can be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import Outcome
from voting.equivalence import Equivalence, MathVerify, make_equivalence, normalize
from voting.mathematics import is_comparable
from voting.tally import tally_answers


@pytest.fixture(scope="module")
def math_verify() -> Iterator[Equivalence]:
    made = make_equivalence(VotingSection(equivalence=Plugin(name="math_verify"), cpu_seconds=0.3, num_workers=2))
    yield made
    made.stop(timeout=5)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (" 7 ", "7"),
        ("$7$", "7"),
        ("$$7$$.", "7"),
        (r"\(x\)", "x"),
        (r"\[ x \]", "x"),
        ("7.", "7"),
        ("7.0", "7.0"),
        ("and so on...", "and so on..."),
        ("a \n\t b", "a b"),
        ("$a$ and $b$", "$a$ and $b$"),
        (r"\(a\) or \(b\)", r"\(a\) or \(b\)"),
        ("$", "$"),
        ("$$", ""),
        (".", ""),
        ("Paris", "Paris"),
    ],
)
def test_normalisation_removes_what_does_not_change_the_meaning(raw: str, normal: str) -> None:
    assert normalize(raw) == normal


@given(st.text(alphabet="$.\\()[] 7aA\n", max_size=12), st.booleans())
def test_normalisation_is_idempotent(text: str, ignore_case: bool) -> None:
    once = normalize(text, ignore_case=ignore_case)
    assert normalize(once, ignore_case=ignore_case) == once


def test_case_counts_unless_told_otherwise() -> None:
    assert normalize("Paris") != normalize("paris")
    assert normalize("Paris", ignore_case=True) == normalize("paris", ignore_case=True)


def test_exact_equivalence_starts_no_process() -> None:
    exact = make_equivalence(VotingSection())
    exact.start()
    assert exact.pids == []
    assert tally_answers(0, ["1", "1.0"], exact).sizes == (1, 1)


def test_words_never_reach_math_verify() -> None:
    assert not any(is_comparable(answer) for answer in ("listen", "silent", "no solution", "}{", "{", "new york, usa"))
    assert all(is_comparable(answer) for answer in ("7", "xy", r"\frac{1}{2}", "x=3", "1,000", r"\{1\}"))


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [
        (["1/2", "0.5", r"\frac{1}{2}", r"\dfrac12", "2"], (4, 1)),
        (["x+1", "1+x", "x"], (2, 1)),
        ([r"2\sqrt{3}", r"\sqrt{12}", "3"], (2, 1)),
        (["1,234", "1234", "1235"], (2, 1)),
        (["listen", "silent"], (1, 1)),
        (["x=3", "3"], (2,)),
        ([r"1<x<2", "(1,2)"], (2,)),
        (["(1,2)", "1<x<2"], (2,)),
        (["}{", "}{", "7"], (2, 1)),
    ],
)
def test_math_verify_clusters_mathematical_equals(
    math_verify: Equivalence, answers: list[str], sizes: tuple[int, ...]
) -> None:
    assert tally_answers(0, answers, math_verify).sizes == sizes


def test_an_intransitive_merge_is_counted(math_verify: Equivalence) -> None:
    made = tally_answers(0, ["0.5", r"50\%", "50"], math_verify)
    assert made.sizes == (3,)
    assert made.num_intransitive_merges == 1


def test_an_answer_that_never_ends_times_out_and_abstains_while_the_others_vote(math_verify: Equivalence) -> None:
    hanging = "10^{10^{10}}"
    made = tally_answers(0, ["7", hanging, "7", "3"], math_verify)
    assert made.outcomes == (Outcome.ANSWERED, Outcome.TIMED_OUT, Outcome.ANSWERED, Outcome.ANSWERED)
    assert made.answers == ("7", None, "7", "3")
    assert made.cluster == (0, -1, 0, 1)
    assert tally_answers(1, [hanging, "3"], math_verify).outcomes[0] is Outcome.TIMED_OUT


def test_hostile_answers_neither_crash_nor_win_by_accident(math_verify: Equivalence) -> None:
    deep = ["(" * 900, "{" * 400 + "}" * 400, "9" * 999, "^" * 50, r"\frac" * 100]
    odd = ["\x00", "\ud800", "1e999999", "a" * 5000, "\u0663", "$", "__import__('os')._exit(1)"]
    made = tally_answers(0, [*deep, *odd, "7", "7"], math_verify)
    assert max(made.sizes) == made.sizes[made.cluster[-1]] == 2


def test_long_answers_equal_only_their_own_text() -> None:
    section = VotingSection(equivalence=Plugin(name="math_verify", options={"max_answer_characters": 2}))
    made = make_equivalence(section)
    try:
        assert tally_answers(0, ["1/2", "0.5", "1/2"], made).sizes == (2, 1)
        assert made.pids == []
    finally:
        made.stop(timeout=5)


def test_a_group_full_of_hanging_answers_gives_up_after_a_few(math_verify: Equivalence) -> None:
    keys = sorted(f"10^{{10^{{1{i}}}}}" for i in range(40))
    assert isinstance(math_verify, MathVerify)
    before = math_verify.num_replaced
    outcomes = math_verify.relate(keys).outcomes
    assert set(outcomes) == {Outcome.TIMED_OUT}
    assert math_verify.num_replaced - before < 16


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="float_rounding"):
        make_equivalence(VotingSection(equivalence=Plugin(name="math_verify", options={"float_rounding": -1})))
    with pytest.raises(ConfigError, match="math_verify"):
        make_equivalence(VotingSection(equivalence=Plugin(name="mathverify")))
