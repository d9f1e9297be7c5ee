"""Clusters of answers: order cannot matter, abstentions stay out, a jury is clustered with the group, merges count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.registry import Options
from quorum.types import Outcome, RevealedLabel, Tally
from tests.builders import make_completion, make_group
from tests.votes import EXACT, RAW, answer_all, boxed_group
from voting.asking import Steps, finish
from voting.equivalence import Exact, ExactOptions, Relation
from voting.extract import BoundExtractor, make_extractor
from voting.jobs import JobStatus
from voting.tally import Jury, cluster, tally, tally_answers

BOXED = make_extractor(Plugin(name="boxed"))
SLOW_READER = BoundExtractor("slow_reader", Options(), False, lambda text, options: None)
"""An extractor that is not known to be linear: it is run in workers."""
ANSWERED, UNPARSED, TRUNCATED, STOPPED = Outcome.ANSWERED, Outcome.UNPARSED, Outcome.TRUNCATED, Outcome.STOPPED


class Paired(Exact):
    """An exact equivalence with further, arbitrary pairs of equal keys: in general not transitive."""

    def __init__(self, equal: set[frozenset[str]], failed: set[str] | None = None) -> None:
        super().__init__(ExactOptions())
        self._equal, self._failed = equal, failed or set()

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        assert list(keys) == sorted(set(keys))
        outcomes = tuple(Outcome.TIMED_OUT if key in self._failed else ANSWERED for key in keys)
        pairs = (
            (i, j)
            for i, j in combinations(range(len(keys)), 2)
            if frozenset((keys[i], keys[j])) in self._equal and not {keys[i], keys[j]} & self._failed
        )
        return Relation(outcomes, frozenset(pairs))
        yield


def _by_completion(made: Tally) -> list[tuple[str | None, Outcome, int, str | None]]:
    """What each completion got, free of the numbering of clusters: answer, outcome, size and name of its cluster."""
    return [
        (answer, outcome, made.sizes[c] if c >= 0 else 0, made.representatives[c] if c >= 0 else None)
        for answer, outcome, c in zip(made.answers, made.outcomes, made.cluster, strict=True)
    ]


_ANSWERS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", " a ", "$b$", "", None]), min_size=1, max_size=10)
_PAIRS = st.sets(st.frozensets(st.sampled_from("abcde"), min_size=2, max_size=2))


@given(_ANSWERS, _PAIRS, st.sets(st.sampled_from("abcde"), max_size=2), st.integers(0, 4), st.randoms())
def test_the_order_of_completions_and_jurors_cannot_matter(
    answers: list[Any], equal: Any, failed: set[str], num_jurors: int, random: Any
) -> None:
    equivalence = Paired(equal, failed)
    k = max(1, len(answers) - num_jurors)
    order = random.sample(range(k), k) + random.sample(range(k, len(answers)), len(answers) - k)
    straight = finish(cluster(0, answers, equivalence, num_own=k))
    shuffled = finish(cluster(0, [answers[i] for i in order], equivalence, num_own=k))
    assert _by_completion(shuffled) == [_by_completion(straight)[i] for i in order[:k]]
    assert shuffled.num_intransitive_merges == straight.num_intransitive_merges
    names = [[made.representatives[c] if c >= 0 else None for c in made.jury] for made in (straight, shuffled)]
    assert names[1] == [names[0][i - k] for i in order[k:]]


@given(_ANSWERS, _PAIRS, st.integers(0, 4))
def test_sizes_count_the_groups_own_members_in_order_of_first_appearance(
    answers: list[Any], equal: Any, num_jurors: int
) -> None:
    k = max(1, len(answers) - num_jurors)
    made = finish(cluster(3, answers, Paired(equal), num_own=k))
    voted = [c for c in (*made.cluster, *made.jury) if c >= 0]
    assert [made.cluster.count(number) for number in range(len(made.sizes))] == list(made.sizes)
    assert list(dict.fromkeys(voted)) == list(range(len(made.sizes)))
    assert [c < 0 for c in made.cluster] == [answer is None for answer in made.answers]
    assert [outcome is ANSWERED for outcome in made.outcomes] == [c >= 0 for c in made.cluster]
    assert len(made.sizes) == len(made.representatives)
    assert (len(made.cluster), len(made.jury)) == (k, len(answers) - k)


def test_a_cluster_is_a_connected_component_and_its_missing_pairs_are_counted() -> None:
    chain = Paired({frozenset("ab"), frozenset("bc"), frozenset("cd")})
    made = tally_answers(0, ["a", "b", "c", "d", "e"], chain)
    assert made.cluster == (0, 0, 0, 0, 1)
    assert made.num_intransitive_merges == 3


def test_the_representative_is_the_most_frequent_then_shortest_then_first_answer() -> None:
    assert tally_answers(0, ["bb", "a", "bb"], Paired({frozenset(("a", "bb"))})).representatives == ("bb",)
    assert tally_answers(0, ["bb", "c"], Paired({frozenset(("c", "bb"))})).representatives == ("c",)
    assert tally_answers(0, ["d", "c"], Paired({frozenset(("d", "c"))})).representatives == ("c",)


def test_empty_answers_abstain_like_missing_ones_unless_the_equivalence_takes_them() -> None:
    made = tally_answers(0, ["", " $$ ", None, "."], EXACT)
    assert made.answers == (None,) * 4
    assert made.outcomes == (UNPARSED,) * 4
    assert made.sizes == ()
    raw = tally_answers(0, ["", " $$ ", None, "."], RAW)
    assert raw.answers == ("", " $$ ", None, ".")
    assert raw.cluster == (0, 1, -1, 2)


def test_an_answer_that_cannot_be_compared_abstains_with_its_outcome() -> None:
    made = tally_answers(0, ["a", "b", "a"], Paired(set(), failed={"a"}))
    assert made.outcomes == (Outcome.TIMED_OUT, ANSWERED, Outcome.TIMED_OUT)
    assert made.cluster == (-1, 0, -1)
    assert made.answers == (None, "b", None)


@pytest.mark.parametrize("extractor", [BOXED, SLOW_READER])
@pytest.mark.parametrize(
    ("truncated", "outcomes"),
    [("abstain", (ANSWERED, TRUNCATED, STOPPED, UNPARSED)), ("vote", (ANSWERED, ANSWERED, STOPPED, UNPARSED))],
)
def test_truncated_completions_abstain_or_vote_by_setting(
    extractor: BoundExtractor, truncated: Any, outcomes: tuple[Outcome, ...]
) -> None:
    group = make_group(
        [
            make_completion(0, [1], text=r"\boxed{7}"),
            make_completion(1, [1], text=r"\boxed{7}", finish_reason="length"),
            make_completion(2, [1], text=r"\boxed{7}", finish_reason="abort"),
            make_completion(3, [1], text="none"),
        ],
        group_id=9,
    )
    made = answer_all(tally(group, extractor, EXACT, truncated=truncated), lambda name, options, text: BOXED(text))
    assert made.outcomes == outcomes
    assert made.group_id == 9
    assert [answer is not None for answer in made.answers] == [o is ANSWERED for o in outcomes]


def test_what_became_of_a_reading_in_a_worker_is_the_completions_outcome() -> None:
    results: dict[str, Any] = {
        "a": "7",
        "b": None,
        "c": JobStatus.TIMED_OUT,
        "d": JobStatus.EXPIRED,
        "e": JobStatus.ERROR,
        "f": 7,
        "g": ["7"],
    }
    group = make_group([[1]] * len(results), texts=list(results))
    made = answer_all(tally(group, SLOW_READER, EXACT), lambda name, options, text: results[text])
    assert made.answers == ("7", *[None] * 6)
    assert made.outcomes == (
        ANSWERED,
        UNPARSED,
        *[Outcome.TIMED_OUT] * 2,
        *[Outcome.ERROR] * 3,
    )


def test_workers_are_asked_for_the_completions_that_vote_and_their_answers_are_not_remembered() -> None:
    steps = tally(boxed_group(["7", None]), SLOW_READER, EXACT, jury=Jury("teacher", (boxed_group(["8"]),)))
    ask = next(steps)
    assert [subject[0] for subject in ask.subjects] == ["slow_reader"] * 3
    assert [subject[2] for subject in ask.subjects] == ["no box", r"so \boxed{7}", r"so \boxed{8}"]
    assert not ask.is_remembered


def test_a_jury_is_clustered_with_the_group_and_names_its_provenance() -> None:
    jury = Jury("teacher", (boxed_group(["3", "7", None, "9"], group_id=1), boxed_group(["9"], group_id=2)))
    made = finish(tally(boxed_group(["7", "7", "3"]), BOXED, EXACT, jury=jury))
    assert made.representatives == ("7", "3", "9")
    assert made.sizes == (2, 1, 0)
    assert made.jury == (1, 0, -1, 2, 2)
    assert (made.jury_provenance, made.group_id) == ("teacher", 0)
    assert (len(made.answers), len(made.outcomes)) == (3, 3)


def test_a_juror_that_was_cut_abstains_and_a_revealed_label_is_one_juror_through_the_same_equivalence() -> None:
    cut = make_group([make_completion(0, [1], text=r"\boxed{7}", finish_reason="length")], group_id=1)
    revealed = RevealedLabel(prompt_id="p", answer=" $8$. ", provenance="table")
    made = finish(tally(boxed_group(["7"]), BOXED, EXACT, jury=Jury("table", (cut,), (revealed,))))
    assert (made.jury, made.representatives, made.sizes) == ((-1, 1), ("7", "8"), (1, 0))


def test_without_a_jury_there_is_no_provenance_of_one() -> None:
    made = finish(tally(boxed_group(["7"]), BOXED, EXACT))
    assert (made.jury, made.jury_provenance) == ((), "")
    empty = finish(tally(boxed_group(["7"]), BOXED, EXACT, jury=Jury("cross_view")))
    assert (empty.jury, empty.jury_provenance) == ((), "cross_view")


def test_a_groups_own_answers_cannot_join_two_answers_of_a_jury_that_decides_alone() -> None:
    bridge = Paired({frozenset(("0.5", "half")), frozenset(("50", "half"))})
    jury = ["0.5", "50", "50"]
    together = finish(cluster(0, ["half", *jury], bridge, num_own=1))
    assert together.sizes == (1,) and together.jury == (0, 0, 0)
    alone = finish(cluster(0, ["half", *jury], bridge, num_own=1, jury_alone=True))
    assert len(set(alone.jury)) == 2 and alone.jury[1] == alone.jury[2]
    assert alone.cluster[0] in alone.jury


def test_a_groups_own_answers_do_not_choose_how_the_jurys_label_is_written() -> None:
    same = Paired({frozenset(("1/2", "0.5"))})
    answers = ["1/2", "1/2", "1/2", "0.5"]
    assert finish(cluster(0, answers, same, num_own=3)).representatives == ("1/2",)
    assert finish(cluster(0, answers, same, num_own=3, jury_alone=True)).representatives == ("0.5",)


def test_equal_texts_are_read_once_and_in_an_order_of_their_own() -> None:
    group = boxed_group(["9", "7", "9", "8"])
    asked = [subject[2] for subject in next(tally(group, SLOW_READER, EXACT)).subjects]
    assert asked == sorted({completion.text for completion in group.completions})
