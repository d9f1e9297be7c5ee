"""What every registered equivalence promises."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from configs.schema import Plugin, VotingSection
from quorum.types import Outcome
from voting.equivalence import EQUIVALENCES, Equivalence, make_equivalence
from voting.tally import tally_answers

_ANSWERS = ["7", " 7.", "$7$", "8", "1/2", "0.5", "50%", "50", "Paris", "x+1", "", r"\{1,2\}", "}{", "7"]


@pytest.fixture(scope="module", params=sorted(EQUIVALENCES))
def equivalence(request: pytest.FixtureRequest) -> Iterator[Equivalence]:
    made = make_equivalence(VotingSection(equivalence=Plugin(name=request.param)))
    yield made
    made.stop(timeout=5)


def test_keys_are_idempotent(equivalence: Equivalence) -> None:
    for answer in _ANSWERS:
        assert equivalence.key(equivalence.key(answer)) == equivalence.key(answer)


def test_an_answer_equals_itself_and_its_normal_form(equivalence: Equivalence) -> None:
    made = tally_answers(0, ["7", " 7 ", "7.", "8"], equivalence)
    assert made.cluster == (0, 0, 0, 1)


def test_the_order_of_answers_cannot_matter(equivalence: Equivalence) -> None:
    def clusters(answers: list[str]) -> set[tuple[tuple[str, ...], str]]:
        made = tally_answers(0, answers, equivalence)
        assert all(o is Outcome.ANSWERED for o, a in zip(made.outcomes, made.answers, strict=True) if a is not None)
        return {
            (tuple(sorted(a for a, c in zip(made.answers, made.cluster, strict=True) if a and c == n)), name)
            for n, name in enumerate(made.representatives)
        }

    expected = clusters(_ANSWERS)
    for seed in range(3):
        assert clusters(random.Random(seed).sample(_ANSWERS, len(_ANSWERS))) == expected


def test_relating_is_a_function_of_the_keys(equivalence: Equivalence) -> None:
    keys = sorted({equivalence.key(answer) for answer in _ANSWERS} - {""})
    first = equivalence.relate(keys)
    assert equivalence.relate(keys) == first
    assert len(first.outcomes) == len(keys)
    assert all(0 <= i < j < len(keys) for i, j in first.pairs)


def test_stopping_twice_is_harmless_and_ends_every_process(equivalence: Equivalence) -> None:
    equivalence.stop(timeout=5)
    equivalence.stop(timeout=5)
    assert equivalence.pids == []
