"""How often the mathematical equivalence disagrees with a careful reader, over a corpus of pairs of answers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.votes import pool_of
from voting.answers.mathematics import is_comparable
from voting.answers.normal import normalize
from voting.jobs import JobStatus

_CORPUS = Path(__file__).parents[2] / "data" / "answer_pairs.jsonl"
_SETTINGS = (True, 6, 15)
_KNOWN = {
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"\sin^{-1}\frac{1}{2}", r"30^\circ"),
    (r"1 \text{ hour}", r"60 \text{ minutes}"),
    (r"50 \text{ mm}", r"5 \text{ cm}"),
    (r"2x > 6", r"x > 3"),
    (r"-1 \le x \le 1", r"|x| \le 1"),
    (r"\log(ab)", r"\log a + \log b"),
    (r"2\text{cis}\frac{\pi}{3}", r"2(\cos\frac{\pi}{3}+i\sin\frac{\pi}{3})"),
    (r"\textbf{(D)}\ 12", "12"),
    (r"17 \text{ (since } 17 \text{ is prime)}", "17"),
    (r"\text{does not exist}", "D.N.E."),
}
"""Judged wrongly, and known to be; all of them are equal for a reader. A change here is a change of behaviour."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers and what a careful reader says of them."""

    kind: str
    first: str
    second: str
    equal: bool
    note: str = ""


def _corpus() -> list[Pair]:
    return [Pair(**json.loads(line)) for line in _CORPUS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def judged() -> list[tuple[Pair, bool, bool]]:
    """Every pair with the verdicts in both directions, from one worker."""
    pairs = _corpus()
    asked: dict[tuple[str, str], bool] = {}
    for pair in pairs:
        one, other = normalize(pair.first), normalize(pair.second)
        if one != other and is_comparable(one) and is_comparable(other):
            asked[one, other] = asked[other, one] = False
    with pool_of(num_workers=1, cpu_seconds=2.0, preload=("voting.answers.mathematics:warm_up",)) as pool:
        results = pool.run("voting.answers.mathematics:equal", [(*subject, *_SETTINGS) for subject in asked])
    assert {result.status for result in results} == {JobStatus.DONE}
    asked.update((subject, result.value) for subject, result in zip(asked, results, strict=True))

    def verdict(first: str, second: str) -> bool:
        one, other = normalize(first), normalize(second)
        return one == other or asked.get((one, other), False)

    return [(pair, verdict(pair.first, pair.second), verdict(pair.second, pair.first)) for pair in pairs]


def test_the_corpus_is_large_balanced_and_without_repetition() -> None:
    pairs = _corpus()
    kinds = Counter(pair.kind for pair in pairs)
    assert len(pairs) >= 450
    assert 0.4 < sum(pair.equal for pair in pairs) / len(pairs) < 0.6
    assert len(kinds) >= 35 and min(kinds.values()) >= 10
    assert len({frozenset((pair.first, pair.second)) for pair in pairs}) == len(pairs)
    assert all(pair.first != pair.second for pair in pairs)


def test_no_more_pairs_are_judged_wrongly_than_the_known_ones(judged: list[tuple[Pair, bool, bool]]) -> None:
    totals = Counter(pair.kind for pair, _, _ in judged)
    wrong = [pair for pair, verdict, _ in judged if verdict != pair.equal]
    lines = [f"{'kind':14}{'pairs':>6}{'false equal':>13}{'false unequal':>15}{'error':>8}"]
    for kind, total in totals.items():
        false_equal = sum(pair.kind == kind and not pair.equal for pair in wrong)
        false_unequal = sum(pair.kind == kind and pair.equal for pair in wrong)
        error = (false_equal + false_unequal) / total
        lines.append(f"{kind:14}{total:6}{false_equal:13}{false_unequal:15}{error:8.1%}")
    lines.append(f"{'all':14}{len(judged):6}{len(wrong) / len(judged):36.2%}")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert {(pair.first, pair.second) for pair in wrong} == _KNOWN


def test_no_two_different_answers_are_held_equal(judged: list[tuple[Pair, bool, bool]]) -> None:
    assert [pair for pair, verdict, _ in judged if verdict and not pair.equal] == []


def test_the_verdict_does_not_depend_on_the_order_of_the_two(judged: list[tuple[Pair, bool, bool]]) -> None:
    assert [pair for pair, verdict, reverse in judged if verdict != reverse] == []
