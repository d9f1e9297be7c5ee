"""Label metrics against hand-counted groups, TTRL's formulas and the advantage that soft rewards give."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.watch.audit_scores import PASS_RATE_BINS, label_metrics, paid_by, pass_rate_bin
from orchestration.watch.evaluate import PromptScore, majority_of
from orchestration.watch.metrics import METRICS
from tests.unit.orchestration.watch.run_builder import make_score

BINS = list(PASS_RATE_BINS)


def test_a_hand_counted_step_with_hard_rewards() -> None:
    scores = [
        make_score([True, True, True, False], majority=True, label=True, rewards=[1, 1, 1, 0]),
        make_score([False, False, True, False], label=False, rewards=[1, 1, 0, 0]),
        make_score([False] * 4),
    ]
    values = label_metrics(scores)
    assert values.keys() <= METRICS.keys()
    assert values["audit/label_accuracy"] == 1 / 2
    assert values["audit/reward_accuracy"] == (4 + 1) / 8
    assert values["audit/lucky_hit_share"] == 1 / 4
    assert values["audit/average_accuracy"] == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    assert values["audit/majority_accuracy"] == 1 / 3
    assert values["audit/num_references"] == 3
    assert [values[name] for name in BINS] == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0, 0])


def test_a_wrong_label_that_few_completions_gave_is_a_lucky_hit() -> None:
    scores = [make_score([False] * 10, label=False, rewards=[1] * 2 + [0] * 8)]
    values = label_metrics(scores)
    assert (values["audit/label_accuracy"], values["audit/reward_accuracy"]) == (0.0, 0.8)
    assert values["audit/lucky_hit_share"] == 0.8


def test_without_references_nothing_is_measured() -> None:
    assert label_metrics([]) == {}


def test_without_labels_and_rewards_only_answers_are_scored() -> None:
    values = label_metrics([make_score([False, False])])
    for name in ("label_accuracy", "reward_accuracy", "lucky_hit_share"):
        assert values[f"audit/{name}"] is None
    assert values["audit/average_accuracy"] == 0.0 and values[BINS[0]] == 1.0


def test_no_lucky_hits_are_measured_where_every_label_is_right() -> None:
    values = label_metrics([make_score([True, False], label=True, rewards=[1, 0])])
    assert values["audit/reward_accuracy"] == 1.0 and values["audit/lucky_hit_share"] is None


def test_soft_rewards_without_a_label_count_for_reward_accuracy_alone() -> None:
    values = label_metrics([make_score([True, True, False, False, False], rewards=[0.4, 0.4, 0.4, 0.4, 0.2])])
    assert values["audit/label_accuracy"] is None and values["audit/lucky_hit_share"] is None
    assert values["audit/reward_accuracy"] == 3 / 5


@pytest.mark.parametrize(
    ("rewards", "paid"),
    [
        ([1, 1, 0, 0], [True, True, False, False]),
        ([1, 1, 1], [True, True, True]),
        ([0, 0, 0], [False, False, False]),
        ([0.4, 0.4, 0.2, 0.2, 0.2], [True, True, False, False, False]),
        ([0.25] * 4, [False] * 4),
        ([0.3, 0.1, 0.0], [True, False, False]),
        ([1, -1, -1], [True, False, False]),
        ([3 / 8] * 3 + [2 / 8] * 2 + [1 / 8] * 3, [True] * 3 + [False] * 5),
        ([], []),
    ],
)
def test_a_completion_is_paid_when_its_reward_is_above_the_groups_mean(rewards: list[float], paid: list[bool]) -> None:
    assert paid_by(rewards) == paid


def test_rewards_that_differ_by_rounding_alone_are_equal() -> None:
    third = float(np.float32(1) / np.float32(3))
    assert paid_by([third, third + 1e-8, third]) == [False] * 3
    assert paid_by([1.0, 1.0 - 6e-8]) == [True] * 2


@pytest.mark.parametrize(
    ("pass_rate", "place"),
    [
        (0, 0),
        (1 / 64, 1),
        (1 / 4, 1),
        (17 / 64, 2),
        (1 / 2, 2),
        (33 / 64, 3),
        (3 / 4, 3),
        (49 / 64, 4),
        (63 / 64, 4),
        (1, 5),
    ],
)
def test_an_edge_belongs_to_one_bin_only(pass_rate: float, place: int) -> None:
    assert pass_rate_bin(pass_rate) == BINS[place]


def test_a_pass_rate_that_is_no_share_is_refused() -> None:
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="pass rate"):
            pass_rate_bin(wrong)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)).filter(lambda pair: pair[0] <= pair[1]), min_size=1))
def test_bins_agree_with_exact_fractions_and_hold_every_group_once(groups: list[tuple[int, int]]) -> None:
    values = label_metrics([make_score([True] * c + [False] * (k - c)) for c, k in groups])
    rates = [Fraction(c, k) for c, k in groups]
    quarter = Fraction(1, 4)
    counts = [
        sum(rate == 0 for rate in rates),
        *(sum(i * quarter < rate <= (i + 1) * quarter for rate in rates) for i in range(3)),
        sum(3 * quarter < rate < 1 for rate in rates),
        sum(rate == 1 for rate in rates),
    ]
    assert [values[name] for name in BINS] == pytest.approx([count / len(groups) for count in counts])
    assert sum(counts) == len(groups)


answers_of_a_group = st.lists(st.sampled_from(["7", "3", "2", None]), min_size=6, max_size=6)


def hard(answers: list[str | None], reference: str) -> PromptScore:
    sizes = Counter(answer for answer in answers if answer is not None)
    label = majority_of(list(sizes.values()), list(sizes))
    return make_score(
        [answer == reference for answer in answers],
        majority=label == reference,
        label=None if label is None else label == reference,
        rewards=None if label is None else [float(answer == label) for answer in answers],
    )


@given(st.lists(answers_of_a_group, min_size=1, max_size=5))
def test_hard_rewards_give_the_figures_of_ttrl(groups: list[list[str | None]]) -> None:
    """Its formulas per prompt, then the mean over the prompts that elected a label; all groups are of one size."""
    hit_rates, reward_hit_rates = [], []
    for answers in groups:
        votes = Counter(answer for answer in answers if answer is not None).most_common(2)
        if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]):
            continue
        label = votes[0][0]
        rewards = [1 if answer == label else 0 for answer in answers]
        true_rewards = [1 if answer == "7" else 0 for answer in answers]
        hit_rates.append(1.0 if label == "7" else 0.0)
        reward_hit_rates.append(sum(r == t for r, t in zip(rewards, true_rewards, strict=True)) / len(answers))
    values = label_metrics([hard(answers, "7") for answers in groups])
    if not hit_rates:
        assert values["audit/label_accuracy"] is None and values["audit/reward_accuracy"] is None
    else:
        assert values["audit/label_accuracy"] == pytest.approx(np.mean(hit_rates))
        assert values["audit/reward_accuracy"] == pytest.approx(np.mean(reward_hit_rates))


@given(st.lists(st.sampled_from(["7", "3", "2", None]), min_size=2, max_size=9))
def test_soft_rewards_are_right_where_the_leave_one_out_advantage_points_the_right_way(
    answers: list[str | None],
) -> None:
    """A soft reward is the answer's share of the vote; the advantage is exact, in fractions."""
    k = len(answers)
    exact = [Fraction(0) if answer is None else Fraction(answers.count(answer), k) for answer in answers]
    advantages = [reward - (sum(exact) - reward) / (k - 1) for reward in exact]
    is_even = len(set(exact)) == 1
    raised = [reward > Fraction(1, 2) if is_even else a > 0 for reward, a in zip(exact, advantages, strict=True)]
    correct = [answer == "7" for answer in answers]
    rewards = [float(np.float32(float(reward))) for reward in exact]
    values = label_metrics([make_score(correct, label=False, rewards=rewards)])
    expected = sum(up == ok for up, ok in zip(raised, correct, strict=True)) / k
    assert values["audit/reward_accuracy"] == values["audit/lucky_hit_share"] == pytest.approx(expected)
