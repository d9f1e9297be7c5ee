"""Whose answers make the label: the group's own, a jury's, both; and what each source needs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.errors import ConfigError
from quorum.types import EndState
from tests.votes import decide, tally_of
from voting.sources import LABEL_SOURCES, electorate_of, make_source

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=8)
JURIES = st.lists(st.sampled_from(["7", "8", "11", None]), max_size=6)


def _source(name: str) -> dict[str, Any]:
    return {"name": name, "options": {"path": "labels.parquet"} if name == "table" else {}}


@pytest.mark.parametrize(
    ("name", "label", "agreement", "provenance"),
    [
        ("vote", "7", 3 / 4, "majority"),
        ("teacher", "3", 3 / 5, "jury"),
        ("cross_view", "3", 3 / 5, "jury"),
        ("pooled_teacher", "3", 4 / 9, "jury"),
        ("table", "3", 3 / 5, "jury"),
        ("ground_truth", "3", 3 / 5, "jury"),
    ],
)
def test_a_source_says_whose_votes_count_and_who_made_the_label(
    name: str, label: str, agreement: float, provenance: str
) -> None:
    made = tally_of(["7", "7", "7", "3"], jury=["3", "3", "9", "3", None], provenance="jury")
    resolution = decide(made, labels=_source(name))
    assert (resolution.pseudo_label, resolution.agreement, resolution.provenance) == (label, agreement, provenance)


@pytest.mark.parametrize("name", ["teacher", "cross_view"])
def test_sources_that_need_a_jury_elect_nobody_without_one(name: str) -> None:
    assert make_source(Plugin(name=name))[0].needs_jury
    for provenance in ("", name):
        resolution = decide(tally_of(["7"] * 4, provenance=provenance), labels=name)
        assert (resolution.end_state, resolution.pseudo_label) == (EndState.NO_LABEL, None)


@pytest.mark.parametrize("name", ["vote", "pooled_teacher", "table", "ground_truth"])
def test_under_every_other_source_a_group_without_a_jury_votes_by_itself(name: str) -> None:
    resolution = decide(tally_of(["7", "7", "3"], provenance="table"), labels=_source(name))
    assert (resolution.pseudo_label, resolution.provenance) == ("7", "majority")


def test_a_table_drops_what_it_has_no_label_for_when_told_so() -> None:
    labels = {"name": "table", "options": {"path": "labels.parquet", "missing": "drop"}}
    assert decide(tally_of(["7", "7"]), labels=labels).end_state is EndState.NO_LABEL
    by_table = decide(tally_of(["7", "3"], jury=["3"], provenance="table"), labels=labels)
    assert (by_table.pseudo_label, by_table.provenance, by_table.agreement) == ("3", "table", 1.0)


def test_a_jury_that_only_abstains_labels_nobody_where_it_alone_decides() -> None:
    made = tally_of(["7", "7"], jury=[None, None], provenance="teacher")
    assert decide(made, labels="teacher").end_state is EndState.NO_LABEL
    pooled = decide(made, labels="pooled_teacher")
    assert (pooled.pseudo_label, pooled.agreement) == ("7", 0.5)


@pytest.mark.parametrize("name", ["cross_view", "table"])
@given(own=ANSWERS, changed=ANSWERS, jury=JURIES, tie=st.sampled_from(["nobody", "first", "seeded"]))
def test_a_groups_own_answers_cannot_change_the_label_that_others_give_it(
    name: str, own: list[Any], changed: list[Any], jury: list[Any], tie: str
) -> None:
    if not jury and not make_source(Plugin(**_source(name)))[0].needs_jury:
        jury = [None]
    one, other = (
        decide(tally_of(answers, jury=jury, provenance="p"), labels=_source(name), elect={"tie": tie})
        for answers in (own, changed)
    )
    for field in ("pseudo_label", "agreement", "margin", "provenance", "end_state"):
        assert getattr(one, field) == getattr(other, field)


@given(one=ANSWERS, other=ANSWERS)
def test_two_views_label_each_other_crosswise(one: list[Any], other: list[Any]) -> None:
    label_of = {
        name: decide(tally_of(own, jury=jury, provenance="cross_view"), labels="cross_view").pseudo_label
        for name, own, jury in (("one", one, other), ("other", other, one))
    }
    assert label_of["one"] == decide(tally_of(other)).pseudo_label
    assert label_of["other"] == decide(tally_of(one)).pseudo_label


def test_a_jury_counts_under_sources_that_ask_for_it_alone() -> None:
    for entry in LABEL_SOURCES.values():
        source = entry.target
        assert electorate_of(source, has_jury=True) == source.electorate
        assert electorate_of(source, has_jury=False) == ("jury" if source.needs_jury else "own")
        assert (source.supply == "none") == (source.electorate == "own")


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("ema_teacher", {"num_samplers": 0}, "num_samplers"),
        ("momentum", {"temperature": 0.0}, "temperature"),
        ("teacher", {"share_samplers": True}, "samplers of its own"),
        ("teacher", {"num_completions": 0}, "num_completions"),
        ("table", {}, "path"),
        ("ground_truth", {"share": 0.0}, "share"),
        ("ground_truth", {"noise": 1.5}, "noise"),
        ("oracle", {}, "voting.labels"),
        ("vote", {"path": "x"}, "path"),
    ],
)
def test_sources_that_cannot_be_had_say_why(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_source(Plugin(name=name, options=options))
