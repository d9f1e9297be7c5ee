"""Gates on agreement, and groups weighed by their prompts' past, computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import FlipSection
from quorum.types import EndState, Resolution
from tests.builders import make_group
from tests.votes import section_of, tally_of
from voting.asking import finish
from voting.context import PromptPast, StepContext
from voting.prompt_weights import is_relocked
from voting.resolve import resolve
from voting.rewards import receipt_of, reward

BELOW, ABOVE = EndState.BELOW_THRESHOLD, EndState.ABOVE_THRESHOLD


def _decided(answers: list[str | None], past: PromptPast | None = None, step: int = 0, **fields: Any) -> Resolution:
    context = StepContext(step, () if past is None else (past,))
    return resolve([tally_of(answers)], section_of(**fields), context)[0]


def _of_ten(size: int) -> list[str | None]:
    return [*["7"] * size, *[str(100 + i) for i in range(10 - size)]]


# ---- gate


@pytest.mark.parametrize(
    ("size", "end_state"), [(2, BELOW), (3, None), (9, None), (10, ABOVE)], ids=["ambiguous", "low", "high", "easy"]
)
def test_only_groups_of_medium_agreement_are_trained_on_and_all_keep_their_label(
    size: int, end_state: EndState | None
) -> None:
    decided = _decided(_of_ten(size), gate={"min_agreement": 0.3, "max_agreement": 0.9})
    assert (decided.end_state, decided.pseudo_label, decided.agreement) == (end_state, "7", size / 10)


def test_the_gate_moves_with_the_step() -> None:
    gate = {"min_agreement": {"start": 0.2, "end": 0.6, "steps": 4}}
    assert [_decided(_of_ten(4), step=step, gate=gate).end_state for step in range(5)] == [None] * 3 + [BELOW] * 2


def test_a_revealed_label_passes_the_gate_and_a_vote_beside_it_does_not() -> None:
    fields: dict[str, Any] = {
        "gate": {"max_agreement": 0.5},
        "labels": {"name": "ground_truth", "options": {"share": 0.5}},
    }
    revealed = tally_of(["7", "3"], jury=["7"], provenance="ground_truth")
    voted = tally_of(["7", "7", "7", "3"])
    one, other = resolve([revealed, voted], section_of(**fields))
    assert (one.end_state, one.agreement, one.provenance) == (None, 1.0, "ground_truth")
    assert (other.end_state, other.provenance) == (ABOVE, "majority")


@given(
    size=st.integers(1, 10),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    step=st.integers(0, 20),
)
def test_a_gate_never_keeps_what_an_open_one_drops(size: int, ends: tuple[float, float], step: int) -> None:
    gate = {"min_agreement": {"start": ends[0], "end": ends[1], "steps": 10}}
    gated, opened = _decided(_of_ten(size), step=step, gate=gate), _decided(_of_ten(size))
    assert (gated.end_state is None) <= (opened.end_state is None)
    assert gated.pseudo_label == opened.pseudo_label


# ---- a table of the model that the run started from


def test_a_group_weighs_by_its_prompts_agreement_in_the_table() -> None:
    prompts = {"table": "labels.parquet", "sigma": 0.25}
    weights = [_decided(["7"], PromptPast(base_agreement=share), prompts=prompts).weight for share in (1.0, 0.5, 0.0)]
    assert weights == pytest.approx([1.0, math.exp(-2.0), math.exp(-8.0)])
    assert _decided(["7"], PromptPast(), prompts=prompts).weight == 1.0
    assert _decided(["7"], prompts=prompts).weight == 1.0


# ---- flips

FLIPS = {"window": 4, "threshold": 0.3, "discount": 0.5, "minority_share": 0.0, "skip_share": 0.0}


def test_a_group_weighs_less_the_more_often_its_label_changed() -> None:
    past = PromptPast("8", flips=(True, True, False, False, True), agreements=(0.5,) * 6)
    prompts = {"flips": FLIPS}
    assert _decided(["8", "8", "7", None], past, prompts=prompts).weight == 1 - 0.5 * 1 / 4, "F F T, and no flip now"
    assert _decided(["7", "7", "8", None], past, prompts=prompts).weight == 1 - 0.5 * 2 / 4, "F F T, and a flip now"
    assert _decided(["7", "7", "8", None], PromptPast(), prompts=prompts).weight == 1.0, "the first visit"


def test_an_earlier_spelling_of_the_label_is_no_flip() -> None:
    tally = tally_of(["$7$", "7", "7."])
    past = PromptPast("7", flips=(False,) * 4, agreements=(1.0,) * 5)
    assert resolve([tally], section_of(prompts={"flips": FLIPS}), StepContext(0, (past,)))[0].weight == 1.0


def test_flipping_at_high_agreement_weighs_still_less() -> None:
    past = PromptPast("8", flips=(True, True, True), agreements=(0.5,) * 4)
    prompts = {"flips": FLIPS | {"confident": 0.6, "confident_discount": 0.3}}
    assert _decided(["7", "7", "7", "8"], past, prompts=prompts).weight == pytest.approx(0.5 * 0.7)
    assert _decided(["7", "7", "8", None], past, prompts=prompts).weight == pytest.approx(0.5)


def test_minority_answers_of_a_flipping_prompt_get_a_part_of_the_reward_by_their_votes() -> None:
    answers = ["7"] * 4 + ["8"] * 3 + ["9"] * 2 + ["10"] + [None] * 2
    prompts = {"flips": FLIPS | {"minority_share": 0.3, "minority_votes": 0.15}}
    tally = tally_of(answers)
    for past, expected in (
        (PromptPast("8", (True, True, False), (0.5,) * 4), [0.7] * 4 + [0.18] * 3 + [0.12] * 2 + [0.0] * 3),
        (PromptPast("7", (False, False, False), (0.5,) * 4), [1.0] * 4 + [0.0] * 8),
    ):
        section = section_of(prompts=prompts)
        [decided] = resolve([tally], section, StepContext(0, (past,)))
        group = make_group([[1]] * len(answers))
        scored = finish(reward(group, tally, decided, section))
        assert scored.rewards.tolist() == pytest.approx(expected, abs=1e-7)
        assert receipt_of(scored).weight == scored.weight == decided.weight


def test_a_prompt_is_locked_again_when_it_changed_once_does_not_any_more_and_most_agree() -> None:
    section = FlipSection(window=3, threshold=0.3, locked=0.7)
    still = (False,) * 3
    assert is_relocked(PromptPast("7", (True, *still), (0.4, 0.4, 0.7, 0.8, 0.9)), section)
    assert not is_relocked(PromptPast("7", (False, *still), (0.4, 0.4, 0.7, 0.8, 0.9)), section), "never changed"
    assert not is_relocked(PromptPast("7", (True, False), (0.9,) * 3), section), "no full window yet"
    assert not is_relocked(PromptPast("7", (True, False, True, False), (0.9,) * 5), section), "changes still"
    assert not is_relocked(PromptPast("7", (True, *still), (0.9, 0.9, 0.7, 0.7, 0.7)), section), "not above 0.7"


def _locked(num: int, **flips: Any) -> list[Resolution]:
    tallies = [tally_of(["7", "7"], group_id=i) for i in range(num)]
    pasts = (PromptPast("7", (True, False, False, False, False), (1.0,) * 6),) * num
    section = section_of(prompts={"flips": {"window": 4, **flips}})
    return resolve(tallies, section, StepContext(0, pasts))


def test_relocked_prompts_are_skipped_by_lot_up_to_the_most_and_at_least_one_may_be() -> None:
    gone = [one.group_id for one in _locked(8, skip_share=1.0) if one.end_state is EndState.RELOCKED]
    assert gone == [0, 1], "a quarter of eight"
    assert sum(one.end_state is not None for one in _locked(2, skip_share=1.0)) == 1
    drawn = [one.group_id for one in _locked(400, skip_share=0.7, skip_at_most=1.0) if one.end_state is not None]
    assert 0.6 < len(drawn) / 400 < 0.8
    again = [
        one.group_id for one in _locked(400, skip_share=0.7, skip_at_most=1.0, seed=1) if one.end_state is not None
    ]
    assert drawn != again
    assert not any(one.end_state for one in _locked(8, skip_share=0.0))


@given(
    answers=st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=9),
    flips=st.lists(st.booleans(), max_size=8),
    before=st.sampled_from(["7", "8", "11"]),
    random=st.randoms(),
)
def test_weights_are_shares_rewards_stay_bounded_and_the_order_cannot_matter(
    answers: list[Any], flips: list[bool], before: str, random: Any
) -> None:
    past = PromptPast(before, tuple(flips), (0.5,) * (len(flips) + 1))
    section, order = section_of(prompts={"flips": {}}), random.sample(range(len(answers)), len(answers))
    made = []
    for mixed in (answers, [answers[i] for i in order]):
        tally = tally_of(mixed)
        [decided] = resolve([tally], section, StepContext(0, (past,)))
        assert 0 < decided.weight <= 1 and (decided.weight == 1 or decided.pseudo_label is not None)
        scored = finish(reward(make_group([[1]] * len(mixed)), tally, decided, section))
        assert ((scored.rewards >= 0) & (scored.rewards <= 1)).all()
        assert not scored.rewards[[number < 0 for number in tally.cluster]].any()
        made.append((decided.weight, decided.end_state, scored.rewards))
    assert made[0][:2] == made[1][:2]
    assert made[1][2].tolist() == pytest.approx(made[0][2][order].tolist(), abs=1e-7)


def test_pasts_that_are_not_one_per_group_are_refused() -> None:
    with pytest.raises(ValueError, match="2 tallies came with the pasts of 1 prompts"):
        resolve([tally_of(["7"])] * 2, section_of(), StepContext(0, (PromptPast(),)))
