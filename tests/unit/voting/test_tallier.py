"""All parts together on one event loop: extractors by prompt, workers that hang for one group and not for others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from configs.schema import VotingSection
from quorum.errors import ConfigError
from quorum.types import Outcome, Tally
from tests.builders import make_completion, make_group
from tests.votes import boxed_group, section_of
from voting.resolve import resolve
from voting.tallier import Tallier
from voting.tally import Jury

HANGING = r"\int \frac{1}{x^5+x+1} dx"
"""Evaluating it never ends."""


class Voted:
    """A tallier with its event loop."""

    def __init__(self, section: VotingSection, plugins: tuple[str, ...] = ()) -> None:
        self.section, self.loop = section, asyncio.new_event_loop()
        self.tallier = Tallier(section, plugins)

    def tally(self, *args: Any, **options: Any) -> Tally:
        return self.loop.run_until_complete(self.tallier.tally(*args, **options))

    def stop(self) -> None:
        self.tallier.stop()
        self.loop.close()


@pytest.fixture(scope="module")
def math() -> Iterator[Voted]:
    made = Voted(section_of(equivalence="math_verify", service={"cpu_seconds": 0.6}))
    made.tallier.start()
    yield made
    made.stop()


@pytest.fixture
def plain() -> Iterator[Voted]:
    made = Voted(VotingSection())
    yield made
    made.stop()


def test_a_prompt_may_name_its_own_extractor(plain: Voted) -> None:
    group = make_group([[1]] * 2, texts=["it is 7", r"\boxed{8}"])
    assert plain.tally(group).answers == (None, "8")
    assert plain.tally(group, "last_number").answers == ("7", "8")
    with pytest.raises(ConfigError, match="last_number"):
        plain.tally(group, "last_numbr")
    plain.tallier.start()
    assert plain.tallier.pids == []


def test_the_configured_extractor_keeps_its_options_when_a_prompt_names_it() -> None:
    made = Voted(section_of(extractor={"name": "reasoning_gym", "options": {"fallback": "last_number"}}))
    assert made.tally(make_group([[1]], texts=["it is 7"]), "reasoning_gym").answers == ("7",)
    made.stop()


def test_a_jury_is_read_and_cut_by_the_same_rules(plain: Voted) -> None:
    cut = make_group([make_completion(0, [1], text=r"\boxed{9}", finish_reason="length")], group_id=2)
    made = plain.tally(boxed_group(["7", "3"]), jury=Jury("teacher", (boxed_group(["3"], 1), cut)))
    assert (made.jury, made.jury_provenance) == ((1, -1), "teacher")


def test_weights_of_the_rule_stand_in_the_tally_and_reach_the_rewards() -> None:
    made = Voted(section_of(rule={"name": "majority", "options": {"weight": "inverse_length"}}))
    texts = [r"\boxed{3}", r"\boxed{7}", r"\boxed{7}"]
    group = make_group([[1] * 2, [1] * 10, [1] * 10], texts=texts)
    voted = made.tally(group)
    assert voted.weights == (0.5, 0.1, 0.1)
    scored = made.loop.run_until_complete(made.tallier.reward(group, voted, resolve([voted], made.section)[0]))
    assert (scored.pseudo_label, scored.rewards.tolist()) == ("3", [1, 0, 0])
    assert scored.agreement == pytest.approx(0.5 / 0.7)
    made.stop()


def test_sections_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="no_signal"):
        Tallier(section_of(rule="srt_compat", batch={"no_signal": "drop"}))


def test_a_group_that_hangs_does_not_delay_the_others(math: Voted) -> None:
    groups = [boxed_group([f"{i}/7", rf"\frac{{{2 * i}}}{{14}}", "x+1"], group_id=i) for i in range(2, 22)]
    hanging = boxed_group(["7", HANGING, "7", "3"], group_id=11)
    groups[9] = hanging
    finished: dict[int, float] = {}

    async def tally_all() -> list[Tally]:
        async def one(group: Any) -> Tally:
            made = await math.tallier.tally(group)
            finished[group.group_id] = time.monotonic()
            return made

        return list(await asyncio.gather(*(one(group) for group in groups)))

    replaced = math.tallier.pool.num_replaced
    tallies = math.loop.run_until_complete(tally_all())
    assert list(finished)[-1] == 11
    last, *others = sorted(finished.values(), reverse=True)
    assert last - others[0] > 0.2
    assert math.tallier.pool.num_replaced - replaced >= 2
    assert {made.sizes for made in tallies if made.group_id != 11} == {(2, 1)}
    by_id = {made.group_id: made for made in tallies}
    assert by_id[11].outcomes == (Outcome.ANSWERED, Outcome.TIMED_OUT, Outcome.ANSWERED, Outcome.ANSWERED)


def test_keys_and_relations_can_be_had_without_a_group(math: Voted) -> None:
    keys = sorted(filter(None, map(math.tallier.key, ["$1/2$", "0.5.", "3", " "])))
    assert keys == ["0.5", "1/2", "3"]
    relation = math.loop.run_until_complete(math.tallier.relate(keys))
    assert relation.pairs == {(0, 1)}


def test_company_that_hangs_does_not_change_what_becomes_of_a_slow_sound_answer() -> None:
    section = section_of(
        extractor={"name": "regex", "options": {"pattern": "(a+)+$", "group": 0}},
        service={"cpu_seconds": 1.0, "group_seconds": 2.5},
    )
    slow = make_group([[1]] * 2, texts=["a" * 20 + "b", "aa"])
    hanging = [make_group([[1]], group_id=i, texts=["a" * (40 + i) + "b"]) for i in range(1, 6)]
    made = Voted(section)

    async def beside() -> list[Tally]:
        return await asyncio.gather(*(made.tallier.tally(group) for group in [*hanging, slow]))

    try:
        alone = made.tally(slow)
        *others, in_company = made.loop.run_until_complete(beside())
        assert alone.outcomes == in_company.outcomes == (Outcome.UNPARSED, Outcome.ANSWERED)
        assert {tally.outcomes for tally in others} == {(Outcome.TIMED_OUT,)}
    finally:
        made.stop()
