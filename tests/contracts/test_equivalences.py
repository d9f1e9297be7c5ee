"""What every registered equivalence promises."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from configs.schema import Plugin
from quorum.types import Outcome, Tally
from tests.votes import Pool, pool_of
from voting.asking import Asker, Steps
from voting.equivalence import EQUIVALENCES, Equivalence, make_equivalence
from voting.tally import cluster

_ANSWERS = ["7", " 7.", "$7$", "8", "1/2", "0.5", "50%", "50", "Paris", "x+1", "", r"\{1,2\}", "}{", "7", None]


_NEEDED = {"reasoning_gym": {"task": "chain_sum"}}
"""Options of equivalences that have no default for one."""


def _made(name: str) -> Equivalence:
    return make_equivalence(Plugin(name=name, options=_NEEDED.get(name, {})))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    preload = {spec for name in EQUIVALENCES for spec in _made(name).preload}
    with pool_of(num_workers=2, cpu_seconds=2.0, preload=sorted(preload)) as made:
        yield made


@pytest.fixture(scope="module")
def run(pool: Pool) -> Callable[[Steps[Any]], Any]:
    """Run steps anew, nothing remembered."""
    return lambda steps: pool.loop.run_until_complete(Asker(pool.workers).run(steps, 60))


@pytest.fixture(params=sorted(EQUIVALENCES))
def equivalence(request: pytest.FixtureRequest) -> Equivalence:
    return _made(request.param)


def _keys(equivalence: Equivalence) -> list[str]:
    return sorted({equivalence.key(answer) for answer in _ANSWERS if answer is not None} - {None})


def test_keys_are_idempotent(equivalence: Equivalence) -> None:
    for key in _keys(equivalence):
        assert equivalence.key(key) == key


def test_an_answer_equals_itself_and_no_other_number(equivalence: Equivalence, run: Callable[..., Tally]) -> None:
    made = run(cluster(0, ["7", "8", "7", None, "8"], equivalence))
    assert made.cluster == (0, 1, 0, -1, 1)
    assert made.representatives == ("7", "8")


def test_the_order_of_answers_cannot_matter(equivalence: Equivalence, run: Callable[..., Tally]) -> None:
    def clusters(answers: Sequence[str | None]) -> set[tuple[tuple[str, ...], str]]:
        made = run(cluster(0, answers, equivalence))
        assert all(o is Outcome.ANSWERED for o, a in zip(made.outcomes, made.answers, strict=True) if a is not None)
        members = list(zip(made.answers, made.cluster, strict=True))
        return {
            (tuple(sorted(a for a, c in members if a is not None and c == number)), name)
            for number, name in enumerate(made.representatives)
        }

    expected = clusters(_ANSWERS)
    for seed in range(3):
        assert clusters(random.Random(seed).sample(_ANSWERS, len(_ANSWERS))) == expected


def test_relating_is_a_function_of_the_keys(equivalence: Equivalence, run: Callable[..., Any]) -> None:
    keys = _keys(equivalence)
    first = run(equivalence.relate(keys))
    assert run(equivalence.relate(keys)) == first
    assert len(first.outcomes) == len(keys)
    assert all(0 <= i < j < len(keys) for i, j in first.pairs)


def test_one_answer_alone_is_related_to_nobody(equivalence: Equivalence, run: Callable[..., Any]) -> None:
    relation = run(equivalence.relate(["7"]))
    assert (relation.outcomes, relation.pairs) == ((Outcome.ANSWERED,), frozenset())


def test_what_a_worker_must_import_is_named_by_module(equivalence: Equivalence) -> None:
    assert all(spec.partition(":")[0].isidentifier() or "." in spec for spec in equivalence.preload)
    assert isinstance(equivalence.preload, tuple)
