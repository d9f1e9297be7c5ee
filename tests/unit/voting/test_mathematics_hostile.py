"""The hostile answers themselves, and that refusing them is cheap and reading what is left never raises."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import pytest

from tests.hostile import FAMILIES, MEGABYTE, hostile_answers, hostile_texts, labelled_answers
from tests.votes import pool_of
from voting.answers.guards import is_hopeless
from voting.answers.mathematics import is_comparable
from voting.answers.normal import normalize
from voting.answers.reading import read
from voting.extract import EXTRACTORS
from voting.jobs import JobStatus

_LIMIT = 1000
"""Longer answers do not get as far as being read: the equivalence's default."""


def test_the_same_seed_gives_the_same_strings_and_another_one_others() -> None:
    assert list(hostile_texts(200, seed=1)) == list(hostile_texts(200, seed=1))
    assert list(hostile_texts(200, seed=1)) != list(hostile_texts(200, seed=2))
    assert list(hostile_answers(100)) == list(islice(hostile_answers(5000), 100))


def test_every_family_has_its_share_and_megabytes_are_few() -> None:
    counts = Counter(family for family, _ in labelled_answers(5000))
    assert sum(counts.values()) == 5000
    assert set(counts) == {*FAMILIES, MEGABYTE}
    assert counts.pop(MEGABYTE) == 5
    assert min(counts.values()) > 200


def test_the_extremes_are_there() -> None:
    answers = list(hostile_answers(5000))
    assert max(map(len, answers)) == 1_000_000
    assert max(sum(map(str.isdigit, answer)) for answer in answers if len(answer) < 300_000) > 50_000
    assert any("(" * 5000 in answer for answer in answers) and any(r"\sqrt{" * 5000 in answer for answer in answers)
    assert any("\x00" in answer for answer in answers) and any("\ud800" in answer for answer in answers)


def test_texts_are_completions_around_the_answers() -> None:
    texts = list(hostile_texts(300))
    assert len(texts) == 300
    assert all(answer in text for answer, text in zip(hostile_answers(300), texts, strict=True))
    extract = EXTRACTORS["boxed"].target
    assert sum(extract(text, EXTRACTORS["boxed"].options()) is not None for text in texts) > 100


@pytest.mark.parametrize(
    "piece", ["(", "^{10", "1^", "^ ", "- ", "9", "x", r"\frac{", "!) ", "{}", r"\\", "^{1a", ")^2", "**"]
)
def test_a_megabyte_is_refused_or_let_through_in_linear_time(piece: str) -> None:
    started = time.process_time()
    is_comparable((piece * 1_000_000)[:1_000_000])
    assert time.process_time() - started < 10


def test_reading_raises_nothing_whatever_the_text() -> None:
    for answer in hostile_answers(2500, seed=3):
        key = normalize(answer)
        if len(key) <= _LIMIT and is_comparable(key):
            assert read(key) == read(key)


def test_what_would_burn_a_deadline_is_seen_before() -> None:
    burning = {"nested_brackets": "(" * 21, "towers": "9^{9^{9}}", "huge_numbers": "2^{1000000}", "digits": "1" * 1001}
    assert all(is_hopeless(answer) for answer in burning.values())
    refused = Counter(family for family, answer in labelled_answers(5000) if not is_comparable(answer))
    assert all(refused[family] > 100 for family in ("nested_brackets", "nested_commands", "towers", "huge_numbers"))


@pytest.mark.parametrize(
    "answer",
    [
        "2^{3^2}",
        "e^{-x^2}",
        "20!",
        "2024!",
        "3^{2024}",
        "10^{100}",
        "6.022e23",
        r"\binom{2024}{1012}",
        "x^{2^{10}}",
        "(" * 20,
    ]
    + [
        "1,2,3",
        "**7**",
        r"\frac{1}{1+\frac{1}{1+\frac{1}{2}}}",
        "123456789" * 20,
        r"\sqrt{\sqrt{\sqrt{2}}}",
        "((x^2)^3)^4",
    ],
)
def test_what_answers_look_like_is_not_refused(answer: str) -> None:
    assert not is_hopeless(answer)


def test_workers_survive_a_sample_and_few_of_it_run_into_the_deadline() -> None:
    keys = {normalize(answer) for answer in hostile_answers(400, seed=7)}
    subjects = [(key, True, 6, 15) for key in sorted(keys) if len(key) <= 200 and is_comparable(key)]
    with pool_of(num_workers=2, cpu_seconds=0.5, preload=("voting.answers.mathematics:warm_up",)) as pool:
        statuses = Counter(pool.statuses("voting.answers.mathematics:check", subjects))
    assert statuses[JobStatus.ERROR] == 0
    assert statuses[JobStatus.DONE] > 0.95 * len(subjects) > 50
