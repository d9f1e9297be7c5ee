"""Sameness of answers: exact after normalisation, by equal strings, by a user's function, mathematical in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.errors import ConfigError
from quorum.types import Outcome, Tally
from tests.votes import EXACT, RAW, Pool, answer_all, pool_of
from voting.answers.mathematics import is_comparable
from voting.answers.normal import normalize
from voting.asking import Asker, finish
from voting.equivalence import Pairwise, Relation, make_equivalence, pairwise
from voting.jobs import JobResult, JobStatus
from voting.tally import cluster, tally_answers

ANSWERED, TIMED_OUT, ERROR = Outcome.ANSWERED, Outcome.TIMED_OUT, Outcome.ERROR
HANGING = r"\int \frac{1}{x^5+x+1} dx"
"""Evaluating it never ends."""


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
    ignoring = make_equivalence(Plugin(name="exact", options={"ignore_case": True}))
    assert tally_answers(0, ["Paris", "PARIS."], ignoring).sizes == (2,)


@pytest.mark.parametrize("equivalence", [EXACT, RAW])
def test_equal_strings_need_no_worker(equivalence: Any) -> None:
    assert finish(equivalence.relate(["1", "1.0"])) == Relation((ANSWERED, ANSWERED), frozenset())
    assert equivalence.preload == ()


def test_raw_answers_are_equal_only_to_themselves_and_an_empty_one_votes() -> None:
    assert tally_answers(0, ["7", " 7", "$7$", "7", "", ""], RAW).sizes == (2, 1, 1, 2)


def test_what_no_worker_should_see_is_refused_before() -> None:
    assert not any(is_comparable(answer) for answer in ("}{", "{", "10^{10^{10}}", "(" * 99, "9" * 5000, "\x00"))
    assert all(is_comparable(answer) for answer in ("7", "xy", r"\frac{1}{2}", "x=3", "1,000", r"\{1\}", "listen"))


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        (Plugin(name="math_verify", options={"float_rounding": -1}), "float_rounding"),
        (Plugin(name="mathverify"), "math_verify"),
        (Plugin(name="raw", options={"ignore_case": True}), "ignore_case"),
    ],
)
def test_wrong_options_are_refused(plugin: Plugin, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_equivalence(plugin)


# ---- a user's function, without workers

_USERS = Pairwise("module:function")


def _related(keys: Sequence[str], verdict: Callable[[str, str], Any]) -> Relation:
    return answer_all(_USERS.relate(keys), verdict)


def test_one_direction_is_enough() -> None:
    assert _related(["a", "b", "c"], lambda one, other: one == other or (one, other) == ("c", "a")).pairs == {(0, 2)}
    assert _related(["a", "b", "c"], lambda one, other: (one, other) == ("a", "c")).pairs == {(0, 2)}


def test_every_pair_is_asked_in_both_directions_after_each_answer_alone() -> None:
    steps = _USERS.relate(["a", "b"])
    asks = [next(steps), steps.send([JobResult(JobStatus.DONE, True)] * 2)]
    assert [ask.subjects for ask in asks] == [(("a", "a"), ("b", "b")), (("a", "b"), ("b", "a"))]
    for ask in asks:
        assert (ask.function, ask.settings, ask.is_remembered) == ("module:function", (), True)


def test_an_answer_that_fails_with_itself_abstains_and_is_compared_with_nobody() -> None:
    statuses = {"b": JobStatus.TIMED_OUT, "c": JobStatus.ERROR, "d": JobStatus.EXPIRED}
    asked: list[tuple[str, str]] = []

    def verdict(one: str, other: str) -> Any:
        asked.append((one, other))
        return statuses.get(one, True) if one == other else True

    relation = _related(["a", "b", "c", "d", "e"], verdict)
    assert relation.outcomes == (ANSWERED, TIMED_OUT, ERROR, TIMED_OUT, ANSWERED)
    assert relation.pairs == {(0, 4)}
    assert {pair for pair in asked if pair[0] != pair[1]} == {("a", "e"), ("e", "a")}


def test_a_comparison_that_fails_or_says_something_else_than_true_counts_as_unequal() -> None:
    for verdict in (JobStatus.TIMED_OUT, JobStatus.ERROR, False, None, 1, "yes"):
        relation = _related(["a", "b"], lambda one, other, verdict=verdict: one == other or verdict)
        assert relation == Relation((ANSWERED, ANSWERED), frozenset(), int(isinstance(verdict, JobStatus)))


def test_a_function_that_does_not_hold_an_answer_equal_to_itself_harms_nobody() -> None:
    made = answer_all(cluster(0, ["a", "a", "b"], _USERS), lambda one, other: False)
    assert (made.sizes, made.outcomes) == ((2, 1), (ANSWERED,) * 3)


def test_one_distinct_answer_asks_nothing() -> None:
    assert finish(cluster(0, ["a", " a ", None, " "], _USERS)).answers == ("a", "a", None, None)


def test_a_function_becomes_an_entry_that_names_it() -> None:
    entry = pairwise(is_comparable)
    assert next(entry.target(entry.options()).relate(["a", "b"])).function == "voting.answers.mathematics:is_comparable"


# ---- mathematics, in workers

MATH = make_equivalence(Plugin(name="math_verify"))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with pool_of(num_workers=2, cpu_seconds=0.15, preload=MATH.preload) as made:
        yield made


def _clustered(pool: Pool, answers: Sequence[str], equivalence: Any = MATH) -> Tally:
    return pool.loop.run_until_complete(Asker(pool.workers).run(cluster(0, answers, equivalence), 60))


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [
        (["1/2", "0.5", r"\frac{1}{2}", r"\dfrac12", "2"], (4, 1)),
        (["x+1", "1+x", "x"], (2, 1)),
        ([r"2\sqrt{3}", r"\sqrt{12}", "3"], (2, 1)),
        (["1,234", "1234", "1235"], (2, 1)),
        (["listen", "silent", "Listen"], (2, 1)),
        ([r"10^{10^{10}}", r"10^{10^{10}}", "7"], (2, 1)),
        (["x=3", "3"], (2,)),
        ([r"1<x<2", "(1,2)"], (2,)),
        (["(1,2)", "1<x<2"], (2,)),
        (["}{", "}{", "7"], (2, 1)),
    ],
)
def test_math_verify_clusters_mathematical_equals(pool: Pool, answers: list[str], sizes: tuple[int, ...]) -> None:
    assert _clustered(pool, answers).sizes == sizes


def test_an_intransitive_merge_is_counted(pool: Pool) -> None:
    made = _clustered(pool, ["0.5", r"50\%", "50"])
    assert made.sizes == (3,)
    assert made.num_intransitive_merges == 1


def test_an_answer_that_never_ends_times_out_and_abstains_while_the_others_vote(pool: Pool) -> None:
    made = _clustered(pool, ["7", HANGING, "7", "3"])
    assert made.outcomes == (ANSWERED, TIMED_OUT, ANSWERED, ANSWERED)
    assert made.answers == ("7", None, "7", "3")
    assert made.cluster == (0, -1, 0, 1)
    assert _clustered(pool, [HANGING, "3"]).outcomes[0] is TIMED_OUT


def test_hostile_answers_neither_crash_nor_win_by_accident(pool: Pool) -> None:
    deep = ["(" * 900, "{" * 400 + "}" * 400, "9" * 999, "^" * 50, r"\frac" * 100]
    odd = ["\x00", "\ud800", "1e999999", "a" * 5000, "\u0663", "$", "__import__('os')._exit(1)"]
    made = _clustered(pool, [*deep, *odd, "7", "7"])
    assert max(made.sizes) == made.sizes[made.cluster[-1]] == 2


def test_long_answers_equal_only_their_own_text_and_ask_nothing() -> None:
    short = make_equivalence(Plugin(name="math_verify", options={"max_answer_characters": 2}))
    assert finish(cluster(0, ["1/2", "0.5", "1/2"], short)).sizes == (2, 1)


def test_a_group_full_of_hanging_answers_gives_up_after_a_few(pool: Pool) -> None:
    before = pool.workers.num_replaced
    answers = [rf"\int \frac{{1}}{{x^5+x+{i + 1}}} dx" for i in range(12)]
    assert set(_clustered(pool, answers).outcomes) == {TIMED_OUT}
    in_fast_lane, in_slow_lane = len(answers), 8
    assert pool.workers.num_replaced - before <= in_fast_lane + in_slow_lane
