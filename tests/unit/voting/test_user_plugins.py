"""Users' own extractors and equivalences: they run in workers, may hang, raise and crash, and every outcome says so."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from quorum.errors import ConfigError
from quorum.types import Outcome, RolloutGroup, Tally
from tests.builders import make_group
from tests.votes import boxed_group, left_after, section_of
from voting.equivalence import EQUIVALENCES
from voting.extract import EXTRACTORS
from voting.resolve import resolve
from voting.tallier import Tallier

pytestmark = pytest.mark.wall_clock

ANSWERED, UNPARSED, TIMED_OUT, ERROR = Outcome.ANSWERED, Outcome.UNPARSED, Outcome.TIMED_OUT, Outcome.ERROR
MODULE = """
import os, time
from typing import Literal
from quorum.registry import Entry, Options
from voting.equivalence import EQUIVALENCES, pairwise
from voting.extract import EXTRACTORS


class Sign(Options):
    sign: Literal["=", "#"] = "="


def read(text, options):
    misbehave(text)
    if "number" in text:
        return 7
    return text.rpartition(options.sign)[2].strip() or None


def same(first, second):
    misbehave(first)
    if "far" in (first, second) and first != second:
        misbehave("hang")
    if (first, second) == ("less", "more"):
        return True
    return first.lower() == second.lower()


def misbehave(text):
    while "hang" in text:
        pass
    if "sleep" in text:
        time.sleep(60)
    if "raise" in text:
        raise RuntimeError("as asked")
    if "exit" in text:
        os._exit(3)
    if "fill" in text:
        "x" * (1 << 40)


EXTRACTORS["users_reader"] = Entry(read, Sign)
EQUIVALENCES["users_sameness"] = pairwise(same)
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "users_voting_plugins.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield ("users_voting_plugins",)
    sys.path.remove(str(folder))
    del sys.modules["users_voting_plugins"], EXTRACTORS["users_reader"], EQUIVALENCES["users_sameness"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def _tallier(plugins: tuple[str, ...], **fields: Any) -> Tallier:
    service = {"cpu_seconds": 0.1, **fields.pop("service", {})}
    return Tallier(section_of(service=service, **fields), plugins)


@pytest.fixture(scope="module")
def reader(plugins: tuple[str, ...]) -> Iterator[Tallier]:
    made = _tallier(plugins, extractor="users_reader")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def sameness(plugins: tuple[str, ...]) -> Iterator[Tallier]:
    made = _tallier(plugins, equivalence="users_sameness")
    yield made
    made.stop()


def _group(*texts: str, group_id: int = 0) -> RolloutGroup:
    return make_group([[1]] * len(texts), texts=texts, group_id=group_id)


def _by_answer(made: Tally, answers: list[str]) -> dict[str, tuple[Outcome, int]]:
    return {a: (o, c) for a, o, c in zip(answers, made.outcomes, made.cluster, strict=True)}


def test_a_users_extractor_reads_with_its_options(
    plugins: tuple[str, ...], reader: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    group = _group("x = 7", "no # 8", "=", "y = 7 ")
    assert loop.run_until_complete(reader.tally(group)).answers == ("7", "no # 8", None, "7")
    assert loop.run_until_complete(reader.tally(group, "boxed")).answers == (None,) * 4
    other = _tallier(plugins, extractor={"name": "users_reader", "options": {"sign": "#"}})
    try:
        assert loop.run_until_complete(other.tally(group)).answers == ("x = 7", "8", "=", "y = 7")
    finally:
        other.stop()
    with pytest.raises(ConfigError, match="sign"):
        _tallier(plugins, extractor={"name": "users_reader", "options": {"sign": "!"}})


def test_what_a_users_extractor_does_to_one_text_is_that_completions_outcome(
    reader: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    texts = ["= 7", "hang", "raise", "exit", "number", "=", "fill", "= 7", "= 3"]
    made = loop.run_until_complete(reader.tally(_group(*texts)))
    assert made.outcomes == (ANSWERED, TIMED_OUT, ERROR, ERROR, ERROR, UNPARSED, ERROR, ANSWERED, ANSWERED)
    assert made.answers == ("7", *[None] * 6, "7", "3")
    assert made.sizes == (2, 1)


def test_texts_that_hang_are_given_up_after_a_few_and_the_vote_goes_on(
    reader: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    texts = [f"hang {i}" for i in range(12)] + ["= 7", "= 7"]
    made = loop.run_until_complete(reader.tally(_group(*texts)))
    assert made.outcomes == (*[TIMED_OUT] * 12, ANSWERED, ANSWERED)
    resolution = resolve([made], section_of())[0]
    assert (resolution.pseudo_label, resolution.agreement) == ("7", 2 / 14)


def test_a_group_past_its_wall_deadline_has_timed_out_and_other_groups_go_on(
    plugins: tuple[str, ...], loop: asyncio.AbstractEventLoop
) -> None:
    service = {"group_seconds": 0.6, "cpu_seconds": 30.0, "num_workers": 2}
    made = _tallier(plugins, extractor="users_reader", service=service)

    async def all_of_them() -> list[Tally]:
        texts = [("sleep", "= 7"), ("= 7", "hang"), ("= 3", "= 3")]
        groups = [_group(*each, group_id=i) for i, each in enumerate(texts)]
        return list(await asyncio.gather(*(made.tally(group) for group in groups)))

    try:
        made.pool.start()
        started = time.monotonic()
        sleeping, hanging, other = loop.run_until_complete(all_of_them())
        assert 0.6 <= time.monotonic() - started < 5
        assert sleeping.outcomes[0] is TIMED_OUT
        assert hanging.outcomes == (ANSWERED, TIMED_OUT)
        assert (other.outcomes, other.sizes) == ((ANSWERED, ANSWERED), (2,))
        assert loop.run_until_complete(made.tally(_group("= 3"))).answers == ("3",)
    finally:
        made.stop()


def test_stopping_ends_the_workers_and_the_next_need_starts_them_again(
    reader: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    loop.run_until_complete(reader.tally(_group("= 3")))
    pids = reader.pids
    reader.stop()
    assert left_after(pids, 3) == []
    assert reader.pids == []
    assert loop.run_until_complete(reader.tally(_group("= 3"))).answers == ("3",)


def test_a_users_sameness_clusters_and_one_direction_is_enough(
    sameness: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    answers = ["Paris", "paris", "more", "less", "Rome", " Rome "]
    made = loop.run_until_complete(sameness.tally(boxed_group(answers)))
    assert made.cluster == (0, 0, 1, 1, 2, 2)
    assert made.outcomes == (ANSWERED,) * 6
    backwards = loop.run_until_complete(sameness.tally(boxed_group(answers[::-1])))
    assert backwards.cluster == (0, 0, 1, 1, 2, 2)


def test_answers_that_a_users_sameness_fails_on_abstain_by_name_and_the_others_vote(
    sameness: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    answers = ["7", "hang", "raise", "exit", "fill", "7", "8"]
    made = loop.run_until_complete(sameness.tally(boxed_group(answers)))
    assert _by_answer(made, answers) == {
        "7": (ANSWERED, 0),
        "hang": (TIMED_OUT, -1),
        "raise": (ERROR, -1),
        "exit": (ERROR, -1),
        "fill": (ERROR, -1),
        "8": (ANSWERED, 1),
    }


def test_two_answers_that_cannot_be_compared_in_time_are_two_answers(
    sameness: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    made = loop.run_until_complete(sameness.tally(boxed_group(["far", "near", "near", "NEAR"])))
    assert (made.cluster, made.outcomes) == ((0, 1, 1, 1), (ANSWERED,) * 4)


def test_what_another_group_asked_of_a_users_sameness_is_not_paid_again(
    sameness: Tallier, loop: asyncio.AbstractEventLoop
) -> None:
    loop.run_until_complete(sameness.tally(boxed_group(["hang once", "1", "2"])))
    replaced, started = sameness.pool.num_replaced, time.process_time()
    made = loop.run_until_complete(sameness.tally(boxed_group(["2", "hang once", "1", "1"])))
    assert made.outcomes == (ANSWERED, TIMED_OUT, ANSWERED, ANSWERED)
    assert sameness.pool.num_replaced == replaced
    assert time.process_time() - started < 0.1
