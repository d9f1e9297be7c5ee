"""Vote metrics against hand-counted votes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.watch.metrics import METRICS
from orchestration.watch.vote_metrics import OUTCOME_METRICS, entropy, majority_ratio, modal_answer, vote_metrics
from quorum.types import EndState, Outcome, Resolution, ScoreReceipt, Tally


def tally(group_id: int, *answers: str | None, outcome: Outcome = Outcome.UNPARSED) -> Tally:
    names = tuple(dict.fromkeys(answer for answer in answers if answer is not None))
    return Tally(
        group_id=group_id,
        answers=answers,
        outcomes=tuple(outcome if answer is None else Outcome.ANSWERED for answer in answers),
        cluster=tuple(-1 if answer is None else names.index(answer) for answer in answers),
        sizes=tuple(answers.count(name) for name in names),
        representatives=names,
    )


def resolution(group_id: int, label: str | None, agreement: float, provenance: str = "majority") -> Resolution:
    return Resolution(
        group_id=group_id,
        label_cluster=-1 if label is None else 0,
        pseudo_label=label,
        provenance=provenance,
        agreement=agreement,
        margin=agreement / 2,
        end_state=EndState.NO_LABEL if label is None else None,
    )


def receipt(group_id: int, reward_sum: float, k: int = 4) -> ScoreReceipt:
    return ScoreReceipt(
        group_id=group_id,
        prompt_tokens=3,
        completion_tokens=(5,) * k,
        trained=(True,) * k,
        truncated=(False,) * k,
        rewards=(reward_sum,) + (0.0,) * (k - 1),
        reward_hash="",
    )


def test_vote_metrics_of_four_hand_counted_groups() -> None:
    tallies = [
        tally(0, "7", "7", "7", "7"),
        tally(1, "7", "7", "3", None),
        tally(2, None, None, None, None, outcome=Outcome.TRUNCATED),
        tally(3, "2", "2", "2", "1"),
    ]
    resolutions = [
        resolution(0, "7", 1.0),
        resolution(1, "7", 0.5),
        resolution(2, None, 0.0),
        resolution(3, "2", 0.75, "ground_truth"),
    ]
    values = vote_metrics(tallies, resolutions, [receipt(0, 4), receipt(1, 2), receipt(3, 3)])
    assert values.keys() <= METRICS.keys()
    expected = {
        "vote/reward_mean": 9 / 12,
        "vote/unjudged_share": 0.0,
        "vote/agreement_mean": 2.25 / 4,
        "vote/margin_mean": 1.125 / 4,
        "vote/majority_ratio_mean": (4 + 2 + 0 + 3) / 4 / 4,
        "vote/abstain_share": 5 / 16,
        "vote/answered_share": 11 / 16,
        "vote/unparsed_share": 1 / 16,
        "vote/truncated_share": 4 / 16,
        "vote/timed_out_share": 0.0,
        "vote/error_share": 0.0,
        "vote/stopped_share": 0.0,
        "vote/unanimous_share": 1 / 4,
        "vote/no_label_share": 1 / 4,
        "vote/kept_share": 3 / 4,
        "vote/distinct_answers_per_prompt": 5 / 4,
        "vote/answer_entropy_mean": (
            0
            - (2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
            - (3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
        )
        / 3,
        "vote/modal_answer_entropy": -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)),
        "vote/distinct_answers": 2,
        "vote/modal_answer_share": 2 / 3,
        "vote/num_intransitive_merges": 0,
        "vote/num_revealed_labels": 1,
        "vote/num_undecided_pairs": 0,
        "vote/weight_mean": 1,
        "vote/penalised_share": 0,
    }
    assert values == pytest.approx(expected)
    changed = [replace(receipt(0, 4), weight=0.25), replace(receipt(1, 0), weight=0.5, penalty=1.0), receipt(3, 3)]
    weighed = vote_metrics(tallies, resolutions, changed)
    assert (weighed["vote/weight_mean"], weighed["vote/penalised_share"]) == pytest.approx((1.75 / 3, 1 / 3))


def test_one_answer_everywhere_is_a_modal_share_of_one() -> None:
    tallies = [tally(0, "1", "1"), tally(1, "1", "1", None)]
    values = vote_metrics(tallies, [resolution(0, "1", 1), resolution(1, "1", 1)], [])
    assert values["vote/modal_answer_share"] == 1.0
    assert values["vote/unanimous_share"] == 0.5
    assert "vote/reward_mean" not in values


def test_a_step_where_nobody_answered_has_no_modal_answer() -> None:
    values = vote_metrics([tally(0, None, None)], [resolution(0, None, 0)], [])
    assert values["vote/distinct_answers"] == 0 and values["vote/majority_ratio_mean"] == 0
    assert not {"vote/modal_answer_share", "vote/modal_answer_entropy", "vote/answer_entropy_mean"} & values.keys()


def test_no_groups_give_no_metrics() -> None:
    assert vote_metrics([], [], []) == {}


def test_the_modal_answer_of_a_tie_does_not_depend_on_the_order() -> None:
    assert modal_answer(tally(0, "b", "a")) == modal_answer(tally(0, "a", "b")) == "a"


def test_the_majority_ratio_counts_abstentions_and_does_not_ask_who_was_elected() -> None:
    tie = tally(0, "a", "a", "b", "b", None)
    values = vote_metrics([tie], [resolution(0, None, 0)], [])
    assert values["vote/majority_ratio_mean"] == 2 / 5 and values["vote/agreement_mean"] == 0
    with pytest.raises(ValueError, match="no completions"):
        majority_ratio([], 0)


def test_every_outcome_has_its_share_and_they_sum_to_one() -> None:
    votes = tally(0, "1", "1", "1", None, None, None, None, None)
    others = (Outcome.UNPARSED, Outcome.TRUNCATED, Outcome.TIMED_OUT, Outcome.ERROR, Outcome.STOPPED)
    values = vote_metrics([replace(votes, outcomes=votes.outcomes[:3] + others)], [resolution(0, "1", 3 / 8)], [])
    assert values["vote/answered_share"] == 3 / 8
    assert all(values[OUTCOME_METRICS[outcome]] == 1 / 8 for outcome in others)
    assert OUTCOME_METRICS.keys() == {Outcome.ANSWERED, *others} == set(Outcome)
    assert values["vote/abstain_share"] == 4 / 8


def test_completions_that_were_stopped_neither_abstain_nor_disagree_nor_earn_less() -> None:
    votes = tally(0, "1", "1", None, None)
    stopped = replace(votes, outcomes=(*votes.outcomes[:2], Outcome.STOPPED, Outcome.STOPPED))
    paid = receipt(0, 2.0)
    values = vote_metrics([stopped], [resolution(0, "1", 2 / 4)], [paid])
    assert (values["vote/abstain_share"], values["vote/stopped_share"]) == (0.0, 0.5)
    assert (values["vote/unanimous_share"], values["vote/reward_mean"]) == (1.0, 1.0)
    assert (values["vote/agreement_mean"], values["vote/majority_ratio_mean"]) == (0.5, 0.5)


def test_a_prompt_that_is_repeated_in_the_step_counts_once() -> None:
    tallies = [tally(0, "1", "1"), tally(1, "1", "1"), tally(2, "2", "2"), tally(3, None, None)]
    resolutions = [resolution(i, None, 0) for i in range(4)]
    once = vote_metrics(tallies, resolutions, [], prompt_ids=["p", "p", "q", "r"])
    assert (once["vote/distinct_answers"], once["vote/modal_answer_share"]) == (2, 1 / 2)
    assert once["vote/modal_answer_entropy"] == pytest.approx(math.log(2))
    each = vote_metrics(tallies, resolutions, [])
    assert (each["vote/distinct_answers"], each["vote/modal_answer_share"]) == (2, 2 / 3)
    assert each["vote/distinct_answers_per_prompt"] == once["vote/distinct_answers_per_prompt"] == 3 / 4


def test_the_groups_of_a_repeated_prompt_are_put_together_before_its_modal_answer_is_read() -> None:
    tallies = [tally(0, "1", "1", "2"), tally(1, "2", "2", "2"), tally(2, "2")]
    values = vote_metrics(tallies, [resolution(i, None, 0) for i in range(3)], [], prompt_ids=["p", "p", "q"])
    assert (values["vote/distinct_answers"], values["vote/modal_answer_share"]) == (1, 1.0)


def test_as_many_prompt_ids_as_groups_are_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        vote_metrics([tally(0, "1")], [resolution(0, "1", 1)], [], prompt_ids=["p", "q"])


def test_label_flips_are_counted_over_the_labels_that_can_be_compared() -> None:
    arguments = [tally(0, "1")], [resolution(0, "1", 1)], []
    assert vote_metrics(*arguments, label_flips=[True, None, False, False])["vote/label_flip_share"] == 1 / 3
    assert "vote/label_flip_share" not in vote_metrics(*arguments, label_flips=[None])
    assert "vote/label_flip_share" not in vote_metrics(*arguments)


def test_entropy_of_hand_counted_distributions() -> None:
    assert entropy([5]) == 0.0
    assert entropy([1, 1, 1, 1]) == pytest.approx(math.log(4))
    assert entropy([2, 0, 2]) == pytest.approx(math.log(2))
    for nothing in ([], [0, 0]):
        with pytest.raises(ValueError, match="nothing"):
            entropy(nothing)


@given(st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=8), min_size=1, max_size=6))
def test_majority_ratio_and_entropies_agree_with_their_formulas(groups: list[list[str | None]]) -> None:
    tallies = [tally(i, *answers) for i, answers in enumerate(groups)]
    values = vote_metrics(tallies, [resolution(i, None, 0) for i in range(len(groups))], [])

    ratios = [max((answers.count(a) for a in answers if a is not None), default=0) / len(answers) for answers in groups]
    assert values["vote/majority_ratio_mean"] == pytest.approx(sum(ratios) / len(groups))

    def formula(answers: list[str]) -> float:
        shares = [count / len(answers) for count in Counter(answers).values()]
        return sum(-p * math.log(p) for p in shares)

    voted = [[answer for answer in answers if answer is not None] for answers in groups]
    entropies = [formula(answers) for answers in voted if answers]
    assert values.get("vote/answer_entropy_mean") == pytest.approx(
        sum(entropies) / len(entropies) if entropies else None
    )
    modal = [min(set(answers), key=lambda a: (-answers.count(a), a)) for answers in voted if answers]
    assert values.get("vote/modal_answer_entropy") == pytest.approx(formula(modal) if modal else None)
    assert sum(values[name] for name in OUTCOME_METRICS.values()) == pytest.approx(1)


@pytest.mark.parametrize(("jury", "agrees"), [((0, 0, 1), 1.0), ((1, 1, 0), 0.0), ((0, 1), 0.0)])
def test_a_teacher_agrees_when_its_largest_cluster_is_the_groups_own(jury: tuple[int, ...], agrees: float) -> None:
    judged = replace(tally(0, "7", "7", "8"), jury=jury, jury_provenance="momentum")
    unasked = replace(tally(1, "1", "1"), jury=(-1,), jury_provenance="momentum")
    values = vote_metrics([judged, unasked], [resolution(0, "7", 0.6), resolution(1, "1", 1.0)], [])
    assert values["vote/teacher_agreement"] == agrees and "vote/view_agreement" not in values


def test_the_other_view_is_told_from_a_teacher() -> None:
    judged = replace(tally(0, "7", "7", "8"), jury=(0,), jury_provenance="cross_view")
    values = vote_metrics([judged], [resolution(0, "7", 0.6)], [])
    assert values["vote/view_agreement"] == 1.0 and "vote/teacher_agreement" not in values
