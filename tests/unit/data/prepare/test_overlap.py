"""Duplicates and contamination: hand-made texts, and agreement with comparing every pair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data.prepare.overlap import OverlapOptions, duplicates, normalized, overlaps, similar_pairs
from data.prepare.write import Example

SENTENCE = "a train leaves the old station at nine and drives forty miles an hour to the sea"


def examples(*texts: str) -> list[Example]:
    return [Example(f"k{index}", text, "unit", None) for index, text in enumerate(texts)]


def found(matches: list) -> list[tuple[str, str, str]]:
    return [(one.kind, one.key, one.other_key) for one in matches]


def test_texts_equal_but_for_case_space_and_compatibility_forms_are_exact_duplicates() -> None:
    assert normalized("Find  X\u00b2\n") == normalized("find x2")
    matches = duplicates("set", examples("Find  x", "find X", "find y", "FIND x "), OverlapOptions())
    assert found(matches) == [("exact", "k1", "k0"), ("exact", "k3", "k0")]


def test_near_duplicates_are_told_from_texts_with_another_sign() -> None:
    long = f"{SENTENCE} where it meets a boat that left at ten and waits for an hour before it turns back"
    matches = duplicates("set", examples(long, long + " again"), OverlapOptions())
    assert found(matches) == [("near", "k1", "k0")] and 0.9 <= matches[0].similarity < 1
    assert duplicates("set", examples("what is 2 + 3 ?", "what is 2 - 3 ?"), OverlapOptions()) == []


def test_a_shared_run_of_13_words_is_contamination_and_12_are_not() -> None:
    words = SENTENCE.split()
    assert len(words) == 17
    test = examples(SENTENCE)
    own = "why do people say that it " + " ".join(words[:13]) + " or not"
    assert found(overlaps(examples(own), "test", test, OverlapOptions())) == [("ngram", "k0", "k0")]
    assert overlaps(examples(own.replace("drives", "runs")), "test", test, OverlapOptions()) == []


def test_a_short_test_prompt_counts_when_all_of_it_is_there_and_a_very_short_one_never() -> None:
    eight = "how many primes lie below one hundred twenty"
    own = examples(f"Think first. {eight}? Then answer.", "what is two plus three in base seven, dear reader?")
    assert found(overlaps(own, "test", examples(eight, "what is two plus three"), OverlapOptions())) == [
        ("ngram", "k0", "k0")
    ]


def test_each_training_prompt_is_reported_once_by_the_strongest_reason() -> None:
    matches = overlaps(examples(SENTENCE, SENTENCE + " now"), "test", examples(SENTENCE), OverlapOptions(threshold=0.8))
    assert found(matches) == [("exact", "k0", "k0"), ("near", "k1", "k0")]


def test_kinds_limit_what_is_looked_for() -> None:
    options = OverlapOptions(kinds=("exact",))
    assert found(overlaps(examples(SENTENCE + " now", SENTENCE), "test", examples(SENTENCE), options)) == [
        ("exact", "k1", "k0")
    ]
    assert duplicates("set", examples("a b", "a b"), OverlapOptions(kinds=("near",))) == []


_SETS = st.lists(st.frozensets(st.sampled_from("abcdefgh"), min_size=1), max_size=8)


@given(left=_SETS, right=_SETS, threshold=st.sampled_from([0.5, 0.6, 0.75, 0.9, 1.0]), same=st.booleans())
def test_the_index_misses_no_pair_and_invents_none(
    left: list[frozenset[str]], right: list[frozenset[str]], threshold: float, same: bool
) -> None:
    if same:
        right = left
    pairs = {(i, j) for i, j, _ in similar_pairs(left, right, threshold, same=same)}
    every = {
        (i, j)
        for i, one in enumerate(left)
        for j, other in enumerate(right)
        if len(one & other) / len(one | other) >= threshold and (j < i or not same)
    }
    assert pairs == every
