"""What every registered label source promises, whoever its jury is."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.errors import ConfigError
from quorum.types import EndState, Resolution
from tests.votes import decide, tally_of
from voting.election import Electorate
from voting.sources import LABEL_SOURCES, LabelSource, Supply, make_source

NEEDED_OPTIONS: dict[str, dict[str, Any]] = {"table": {"path": "labels.parquet"}}
"""What a source cannot be configured without."""
FEW = settings(max_examples=25)
"""For each of many entries; the unit tests look longer at each kind."""
ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=8)
JURIES = st.lists(st.sampled_from(["7", "8", "11", None]), min_size=1, max_size=6)
TIES = st.sampled_from(["nobody", "first", "seeded"])


def _plugin(name: str) -> Plugin:
    return Plugin(name=name, options=NEEDED_OPTIONS.get(name, {}))


def _source(name: str) -> LabelSource:
    return make_source(_plugin(name))[0]


def _decide(name: str, own: list[Any], jury: list[Any], provenance: str = "jury", **fields: Any) -> Resolution:
    return decide(tally_of(own, jury=jury, provenance=provenance, group_id=2), labels=_plugin(name), **fields)


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
def test_a_source_says_who_votes_and_where_the_jury_comes_from(name: str) -> None:
    source = LABEL_SOURCES[name].target
    assert source.electorate in get_args(Electorate)
    assert source.supply in get_args(Supply)
    assert (source.electorate == "own") == (source.supply == "none")
    if source.needs_jury:
        assert source.electorate == "jury"


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no_such_option"):
        make_source(Plugin(name=name, options={**NEEDED_OPTIONS.get(name, {}), "no_such_option": 1}))


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
@FEW
@given(own=ANSWERS, jury=JURIES, tie=TIES)
def test_the_label_is_the_most_common_answer_of_those_who_vote(
    name: str, own: list[Any], jury: list[Any], tie: str
) -> None:
    voters = {"own": own, "jury": jury, "pooled": own + jury}[_source(name).electorate]
    decided = _decide(name, own, jury, elect={"tie": tie})
    numbers = {answer: voters.count(answer) for answer in voters if answer is not None}
    leaders = [answer for answer, number in numbers.items() if number == max(numbers.values())]
    if len(leaders) == 1 or (leaders and tie != "nobody"):
        assert decided.pseudo_label in leaders
        assert decided.agreement == numbers[decided.pseudo_label] / len(voters)
        assert (decided.is_paid, decided.end_state) == (True, None)
    else:
        assert (decided.pseudo_label, decided.is_paid, decided.end_state) == (None, False, EndState.NO_LABEL)
    if tie == "first" and leaders:
        assert decided.pseudo_label == leaders[0]


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
@FEW
@given(own=ANSWERS, jury=JURIES, tie=st.sampled_from(["nobody", "seeded"]), random=st.randoms())
def test_the_order_of_voters_cannot_matter(name: str, own: list[Any], jury: list[Any], tie: str, random: Any) -> None:
    one = _decide(name, own, jury, elect={"tie": tie})
    other = _decide(name, random.sample(own, len(own)), random.sample(jury, len(jury)), elect={"tie": tie})
    for field in ("pseudo_label", "agreement", "margin", "provenance", "end_state"):
        assert getattr(one, field) == getattr(other, field)


@pytest.mark.parametrize("name", [name for name in sorted(LABEL_SOURCES) if _source(name).electorate == "jury"])
@FEW
@given(own=ANSWERS, changed=ANSWERS, jury=JURIES, tie=TIES)
def test_where_a_jury_decides_the_group_cannot_change_its_own_label(
    name: str, own: list[Any], changed: list[Any], jury: list[Any], tie: str
) -> None:
    one, other = (_decide(name, answers, jury, elect={"tie": tie}) for answers in (own, changed))
    for field in ("pseudo_label", "agreement", "margin", "provenance", "end_state"):
        assert getattr(one, field) == getattr(other, field)


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
def test_the_provenance_is_the_jurys_where_the_jury_votes(name: str) -> None:
    decided = _decide(name, ["7", "7", "3"], ["7", "7"], "whoever")
    assert decided.pseudo_label == "7"
    assert decided.provenance == ("majority" if _source(name).electorate == "own" else "whoever")


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
def test_without_a_jury_the_group_votes_or_nobody_is_elected(name: str) -> None:
    decided = _decide(name, ["7", "7", "3"], [], "")
    if _source(name).needs_jury:
        assert (decided.end_state, decided.pseudo_label) == (EndState.NO_LABEL, None)
    else:
        assert (decided.pseudo_label, decided.provenance) == ("7", "majority")


@pytest.mark.parametrize("name", sorted(LABEL_SOURCES))
@FEW
@given(own=ANSWERS)
def test_a_label_that_no_completion_gave_is_a_cluster_of_size_nought(name: str, own: list[Any]) -> None:
    made = tally_of(own, jury=["11"] * 20, provenance="jury")
    decided = decide(made, labels=_plugin(name))
    if _source(name).electorate != "own":
        assert decided.pseudo_label == "11"
        assert made.sizes[decided.label_cluster] == 0
        assert decided.label_cluster not in made.cluster
