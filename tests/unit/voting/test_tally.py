"""Clusters of answers: order cannot matter, abstentions stay out, merges are counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import VotingSection
from quorum.types import Outcome, Tally
from tests.builders import make_completion, make_group
from voting.equivalence import Exact, ExactOptions, Relation, WorkerLimits, make_equivalence
from voting.extract import extract_boxed
from voting.tally import tally, tally_answers

EXACT = make_equivalence(VotingSection())


class Paired(Exact):
    """An exact equivalence with further, arbitrary pairs of equal keys: in general not transitive."""

    def __init__(self, equal: set[frozenset[str]], failed: set[str] | None = None) -> None:
        super().__init__(WorkerLimits(1, 1.0), ExactOptions())
        self._equal, self._failed = equal, failed or set()

    def relate(self, keys: Sequence[str]) -> Relation:
        assert list(keys) == sorted(set(keys))
        outcomes = tuple(Outcome.TIMED_OUT if key in self._failed else Outcome.ANSWERED for key in keys)
        pairs = (
            (i, j)
            for i, j in combinations(range(len(keys)), 2)
            if frozenset((keys[i], keys[j])) in self._equal and not {keys[i], keys[j]} & self._failed
        )
        return Relation(outcomes, frozenset(pairs))


def _by_completion(made: Tally) -> list[tuple[str | None, Outcome, int, str | None]]:
    """What each completion got, free of the numbering of clusters: answer, outcome, size and name of its cluster."""
    return [
        (answer, outcome, made.sizes[c] if c >= 0 else 0, made.representatives[c] if c >= 0 else None)
        for answer, outcome, c in zip(made.answers, made.outcomes, made.cluster, strict=True)
    ]


_ANSWERS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", " a ", "$b$", "", None]), min_size=1, max_size=10)
_PAIRS = st.sets(st.frozensets(st.sampled_from("abcde"), min_size=2, max_size=2))


@given(_ANSWERS, _PAIRS, st.sets(st.sampled_from("abcde"), max_size=2), st.randoms())
def test_the_order_of_completions_cannot_matter(answers, equal, failed, random) -> None:  # type: ignore[no-untyped-def]
    equivalence = Paired(equal, failed)
    order = list(range(len(answers)))
    random.shuffle(order)
    straight = tally_answers(0, answers, equivalence)
    shuffled = tally_answers(0, [answers[i] for i in order], equivalence)
    assert _by_completion(shuffled) == [_by_completion(straight)[i] for i in order]
    assert shuffled.num_intransitive_merges == straight.num_intransitive_merges


@given(_ANSWERS, _PAIRS)
def test_sizes_count_the_members_in_order_of_first_appearance(answers, equal) -> None:  # type: ignore[no-untyped-def]
    made = tally_answers(3, answers, Paired(equal))
    voted = [c for c in made.cluster if c >= 0]
    assert [voted.count(number) for number in range(len(made.sizes))] == list(made.sizes)
    assert list(dict.fromkeys(voted)) == list(range(len(made.sizes)))
    assert [c < 0 for c in made.cluster] == [answer is None for answer in made.answers]
    assert [outcome is Outcome.ANSWERED for outcome in made.outcomes] == [c >= 0 for c in made.cluster]
    assert len(made.sizes) == len(made.representatives)


def test_a_cluster_is_a_connected_component_and_its_missing_pairs_are_counted() -> None:
    chain = Paired({frozenset("ab"), frozenset("bc"), frozenset("cd")})
    made = tally_answers(0, ["a", "b", "c", "d", "e"], chain)
    assert made.cluster == (0, 0, 0, 0, 1)
    assert made.num_intransitive_merges == 3


def test_the_representative_is_the_most_frequent_then_shortest_then_first_answer() -> None:
    assert tally_answers(0, ["bb", "a", "bb"], Paired({frozenset(("a", "bb"))})).representatives == ("bb",)
    assert tally_answers(0, ["bb", "c"], Paired({frozenset(("c", "bb"))})).representatives == ("c",)
    assert tally_answers(0, ["d", "c"], Paired({frozenset(("d", "c"))})).representatives == ("c",)


def test_empty_answers_abstain_like_missing_ones() -> None:
    made = tally_answers(0, ["", " $$ ", None, "."], EXACT)
    assert made.answers == (None,) * 4
    assert made.outcomes == (Outcome.UNPARSED,) * 4
    assert made.sizes == ()


def test_an_answer_that_cannot_be_compared_abstains_with_its_outcome() -> None:
    made = tally_answers(0, ["a", "b", "a"], Paired(set(), failed={"a"}))
    assert made.outcomes == (Outcome.TIMED_OUT, Outcome.ANSWERED, Outcome.TIMED_OUT)
    assert made.cluster == (-1, 0, -1)


@pytest.mark.parametrize(
    ("truncated", "outcomes"),
    [
        ("abstain", (Outcome.ANSWERED, Outcome.TRUNCATED, Outcome.TRUNCATED, Outcome.UNPARSED)),
        ("vote", (Outcome.ANSWERED, Outcome.ANSWERED, Outcome.UNPARSED, Outcome.UNPARSED)),
    ],
)
def test_truncated_completions_abstain_or_vote_by_setting(truncated, outcomes) -> None:  # type: ignore[no-untyped-def]
    group = make_group(
        [
            make_completion(0, [1], text=r"\boxed{7}"),
            make_completion(1, [1], text=r"\boxed{7}", finish_reason="length"),
            make_completion(2, [1], text="cut", finish_reason="length"),
            make_completion(3, [1], text="none"),
        ],
        group_id=9,
    )
    made = tally(group, extract_boxed, EXACT, truncated=truncated)
    assert made.outcomes == outcomes
    assert made.group_id == 9
    assert [answer is not None for answer in made.answers] == [o is Outcome.ANSWERED for o in outcomes]
