"""A step's votes decided at once: order, what is dropped and why, and which settings do not go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin, VotingSection
from quorum.errors import ConfigError
from quorum.types import EndState, Resolution, Tally
from tests.votes import decide, section_of, tally_of
from voting.resolve import check, resolve

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=8)
RULES = st.sampled_from(["majority", "soft", "inverted", "random", "format_only"])
NO_LABEL, NO_SIGNAL = EndState.NO_LABEL, EndState.NO_SIGNAL
BELOW_THRESHOLD, KEEP_FRACTION = EndState.BELOW_THRESHOLD, EndState.KEEP_FRACTION


def _with_agreement(size: int, k: int = 10, group_id: int = 0, **jury: Any) -> Tally:
    """A group of k of which `size` agree on 7 and nobody else answers."""
    return tally_of(["7"] * size + [None] * (k - size), group_id=group_id, **jury)


def _end_states(tallies: Sequence[Tally], **fields: Any) -> list[EndState | None]:
    return [resolution.end_state for resolution in resolve(tallies, section_of(**fields))]


def _kept(resolutions: Sequence[Resolution]) -> set[int]:
    return {i for i, resolution in enumerate(resolutions) if resolution.end_state is None}


def test_resolutions_keep_the_order_of_the_groups() -> None:
    tallies = [tally_of(["7", str(i)], group_id=i) for i in (5, 7, 2)]
    resolutions = resolve(tallies, section_of(elect={"tie": "first"}))
    assert [(r.group_id, r.pseudo_label) for r in resolutions] == [(5, "7"), (7, "7"), (2, "7")]
    assert resolve([], section_of()) == []


def test_unknown_rules_sources_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="majority"):
        resolve([], section_of(rule="majorty"))
    with pytest.raises(ConfigError, match="voting.labels"):
        resolve([], section_of(labels="votes"))


def test_a_group_without_a_label_is_dropped_or_kept_unpaid() -> None:
    for answers, elect, end_state in (
        (["7", "3"], {}, NO_LABEL),
        ([None, None], {}, NO_LABEL),
        (["7", "3", None], {"min_agreement": 0.5, "tie": "first"}, BELOW_THRESHOLD),
    ):
        dropped = decide(tally_of(answers), elect=elect)
        assert (dropped.end_state, dropped.is_paid) == (end_state, False)
        kept = decide(tally_of(answers), elect=elect, batch={"unlabeled": "zero_reward"})
        assert (kept.end_state, kept.is_paid, kept.pseudo_label) == (None, False, None)
        assert kept.agreement == dropped.agreement


def test_a_group_whose_rewards_are_all_equal_is_dropped_only_when_told_so() -> None:
    drop = {"no_signal": "drop"}
    assert decide(tally_of(["7", "7"])).end_state is None
    unanimous = decide(tally_of(["7", "7"]), batch=drop)
    assert (unanimous.end_state, unanimous.pseudo_label, unanimous.agreement) == (NO_SIGNAL, "7", 1.0)
    assert decide(tally_of(["7", "7", None]), batch=drop).end_state is None
    assert decide(tally_of(["7", "7", "3", "3"]), batch=drop, rule="soft").end_state is NO_SIGNAL
    assert decide(tally_of(["7", "7", "3"]), batch=drop, rule="soft").end_state is None
    assert decide(tally_of(["7", "3"], jury=["9"], provenance="t"), batch=drop, labels="teacher").end_state is NO_SIGNAL


def test_signal_is_judged_by_the_completions_that_are_trained_on() -> None:
    fields = {"batch": {"no_signal": "drop"}, "train": {"num_completions": 2}}
    assert decide(tally_of(["7", "7", "3"]), **fields).end_state is NO_SIGNAL
    assert decide(tally_of(["7", "3", "7"]), **fields).end_state is None


@given(ANSWERS, RULES)
def test_a_group_is_dropped_for_no_signal_just_when_its_rewards_are_equal(answers: list[Any], rule: str) -> None:
    made = tally_of(answers)
    plain, strict = decide(made, rule=rule), decide(made, rule=rule, batch={"no_signal": "drop"})
    assert strict.end_state in (plain.end_state, NO_SIGNAL)
    if plain.end_state is None and rule == "majority":
        assert (strict.end_state is NO_SIGNAL) == (len(set(answers)) == 1)
    if plain.end_state is None and rule == "format_only":
        assert (strict.end_state is NO_SIGNAL) == (None not in answers or set(answers) == {None})


def test_the_fraction_with_the_highest_agreement_is_kept_and_equals_keep_group_order() -> None:
    tallies = [_with_agreement(size, group_id=i) for i, size in enumerate([6, 9, 7, 9, 5, 9])]
    for fraction, kept in ((0.17, {1}), (0.34, {1, 3}), (0.5, {1, 3, 5}), (0.67, {1, 2, 3, 5}), (1.0, set(range(6)))):
        resolutions = resolve(tallies, section_of(batch={"keep_fraction": fraction}))
        assert _kept(resolutions) == kept
        assert {r.end_state for i, r in enumerate(resolutions) if i not in kept} <= {KEEP_FRACTION}
        assert all(r.pseudo_label == "7" for r in resolutions)


def test_the_fraction_is_one_of_all_groups_but_the_unlabelled_cannot_fill_it() -> None:
    tallies = [_with_agreement(size) for size in (9, 2, 8, 2)]
    fields = {"elect": {"min_agreement": 0.5}}
    assert _end_states(tallies, **fields, batch={"keep_fraction": 0.75}) == [
        None,
        BELOW_THRESHOLD,
        None,
        BELOW_THRESHOLD,
    ]
    assert _end_states(tallies, **fields, batch={"keep_fraction": 0.5, "unlabeled": "zero_reward"}) == [
        None,
        KEEP_FRACTION,
        None,
        KEEP_FRACTION,
    ]


def test_labels_from_outside_the_vote_are_kept_first_whatever_their_agreement() -> None:
    revealed = {"jury": ["3", "3", "5"], "provenance": "ground_truth"}
    tallies = [_with_agreement(10), _with_agreement(9), tally_of(["7"] * 10, **revealed)]
    kept = resolve(tallies, section_of(labels="ground_truth", batch={"keep_fraction": 0.67}))
    assert _kept(kept) == {0, 2}
    assert kept[2].agreement == pytest.approx(2 / 3)


def test_one_group_is_always_kept_where_any_is_labelled() -> None:
    assert _end_states([_with_agreement(5), _with_agreement(6)], batch={"keep_fraction": 0.01}) == [KEEP_FRACTION, None]
    assert _end_states([_with_agreement(0)] * 2, batch={"keep_fraction": 0.01}) == [NO_LABEL] * 2


_GROUPS = st.lists(ANSWERS, min_size=1, max_size=8)


@given(_GROUPS, st.floats(0.01, 1), st.floats(0.01, 1), RULES, st.sampled_from(["drop", "zero_reward"]))
def test_a_larger_fraction_keeps_more_and_never_other_groups(
    groups: list[list[Any]], one: float, other: float, rule: str, unlabeled: str
) -> None:
    tallies = [tally_of(answers, group_id=i) for i, answers in enumerate(groups)]
    smaller, larger = (
        resolve(tallies, section_of(rule=rule, batch={"keep_fraction": fraction, "unlabeled": unlabeled}))
        for fraction in sorted((one, other))
    )
    assert _kept(smaller) <= _kept(larger)
    everybody = resolve(tallies, section_of(rule=rule, batch={"unlabeled": unlabeled}))
    wanted = max(1, int(len(groups) * min(one, other)))
    assert len(_kept(smaller)) == min(wanted, len(_kept(everybody)))
    for i in _kept(everybody) - _kept(smaller):
        assert all(everybody[j].agreement >= everybody[i].agreement or not everybody[i].is_paid for j in _kept(smaller))
    assert [r.agreement for r in smaller] == [r.agreement for r in everybody]


@given(_GROUPS, st.sampled_from(["min_agreement", "min_margin"]), st.floats(0, 1), st.floats(0, 1), RULES)
def test_a_higher_threshold_never_adds_a_label_or_a_group(
    groups: list[list[Any]], threshold: str, one: float, other: float, rule: str
) -> None:
    tallies = [tally_of(answers, group_id=i) for i, answers in enumerate(groups)]
    lower, higher = (resolve(tallies, section_of(rule=rule, elect={threshold: x})) for x in sorted((one, other)))
    assert _kept(higher) <= _kept(lower)
    for before, after in zip(lower, higher, strict=True):
        assert after.pseudo_label in (None, before.pseudo_label)
        assert after.is_paid <= before.is_paid


@given(_GROUPS, st.randoms(), RULES, st.sampled_from(["nobody", "seeded"]), st.sampled_from(["keep", "drop"]))
def test_the_order_of_completions_cannot_matter_to_the_step(
    groups: list[list[Any]], random: Any, rule: str, tie: str, no_signal: str
) -> None:
    section = section_of(rule=rule, elect={"tie": tie}, batch={"no_signal": no_signal, "keep_fraction": 0.5})
    straight = resolve([tally_of(answers, group_id=i) for i, answers in enumerate(groups)], section)
    mixed = [random.sample(answers, len(answers)) for answers in groups]
    shuffled = resolve([tally_of(answers, group_id=i) for i, answers in enumerate(mixed)], section)
    for one, other in zip(straight, shuffled, strict=True):
        for field in ("pseudo_label", "agreement", "margin", "end_state", "is_paid"):
            assert getattr(one, field) == getattr(other, field)


# ---- settings that do not go together


def test_a_sound_section_has_no_problems() -> None:
    assert check(VotingSection()) == []
    assert check(section_of(rule="srt_compat")) == []


@pytest.mark.parametrize("rule", ["srt_compat", "ttrl_compat"])
def test_rules_that_pay_by_a_later_comparison_take_no_other_source_and_drop_nothing_for_no_signal(rule: str) -> None:
    problems = check(section_of(rule=rule, labels="teacher", batch={"no_signal": "drop"}))
    assert len(problems) == 2
    assert problems[0].startswith("voting.batch.no_signal=drop")
    assert problems[1].startswith("voting.labels=teacher")


def test_every_problem_is_named_at_once() -> None:
    problems = check(VotingSection(rule=Plugin(name="majorty"), labels=Plugin(name="momentum", options={"decay": 0.9})))
    assert [problem.partition(":")[0] for problem in problems] == ["voting.rule.name", "voting.labels.options.decay"]


def test_a_group_whose_chosen_completions_are_all_left_out_has_no_signal() -> None:
    tally = replace(tally_of(["7", "7", "7", "3", "3"]), entropies=(0.0, 2.0, 2.0, 2.0, 2.0))
    train = {"num_completions": 1, "entropy_iqr": 0.75}
    assert _end_states([tally], train=train, batch={"no_signal": "drop"}) == [NO_SIGNAL]
    assert _end_states([tally], train=train) == [None]
