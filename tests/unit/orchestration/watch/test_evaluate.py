"""Evaluation statistics against values counted by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from configs.schema import EvaluationSection, VotingSection
from data.references import References
from orchestration.watch.evaluate import (
    PromptScore,
    avg_at_n,
    bootstrap,
    evaluation_sampling,
    majority_of,
    pass_at_k,
    pass_ks,
    read_scored,
    score_table,
    summarize,
)
from orchestration.watch.grade import Grader
from orchestration.watch.metrics import METRICS
from quorum.types import Role
from tests.unit.orchestration.watch.run_builder import close_step, make_run, make_score, prompt_id


def score(correct: list[bool], majority: bool, source: str = "a", group_id: int = 0) -> PromptScore:
    return make_score(correct, majority=majority, source=source, group_id=group_id)


def test_average_counts_right_completions() -> None:
    assert avg_at_n([True, False, False, True]) == 0.5
    with pytest.raises(ValueError, match="no completions"):
        avg_at_n([])


def test_a_tie_has_no_majority() -> None:
    assert majority_of([2, 3, 1], ["a", "b", "c"]) == "b"
    assert majority_of([2, 2], ["a", "b"]) is None
    assert majority_of([], []) is None


@pytest.mark.parametrize(("n", "c"), [(5, 0), (5, 2), (6, 5), (4, 4)])
def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_one(n: int, c: int) -> None:
    completions = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(combinations(completions, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


def test_pass_at_k_refuses_what_makes_no_sense() -> None:
    for n, c, k in [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)]:
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, c, k)


def test_pass_is_reported_at_powers_of_two_and_n() -> None:
    assert pass_ks(1) == [1] and pass_ks(16) == [1, 2, 4, 8, 16] and pass_ks(6) == [1, 2, 4, 6]


def test_bootstrap_intervals_have_the_width_that_theory_gives() -> None:
    scores = (np.arange(400) % 4 == 0).astype(float)[:, None]
    (interval,) = bootstrap([scores], seed=0)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert interval.value == 0.25
    assert interval.low == pytest.approx(0.25 - half, abs=0.006)
    assert interval.high == pytest.approx(0.25 + half, abs=0.006)
    assert bootstrap([scores], seed=0) == [interval] != bootstrap([scores], seed=1)


def test_equal_scores_have_an_interval_without_width() -> None:
    (interval,) = bootstrap([np.ones((7, 1))], seed=3)
    assert interval == pytest.approx((1.0, 1.0, 1.0))


def test_the_macro_average_weighs_data_sources_equally() -> None:
    (interval,) = bootstrap([np.ones((30, 1)), np.zeros((10, 1))], seed=0)
    assert interval == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="without prompts"):
        bootstrap([np.ones((3, 1)), np.ones((0, 1))], seed=0)


def test_summary_of_a_hand_counted_evaluation() -> None:
    scores = [
        score([True, True, True, False], True, "a", 0),
        score([True, False, False, False], False, "a", 1),
        score([False] * 4, False, "b", 0),
    ]
    result = summarize(scores, seed=0)
    assert result["sources"]["a"]["average_accuracy"].value == 0.5
    assert result["sources"]["a"]["majority_accuracy"].value == 0.5
    assert result["sources"]["a"]["pass_accuracy"]["2"].value == pytest.approx((1.0 + 0.5) / 2)
    assert result["eval/average_accuracy"] == 0.25 and result["eval/majority_accuracy"] == 0.25
    assert result["eval/pass_accuracy"] == 0.5 and result["eval/num_prompts"] == 3
    assert result["eval/completion_tokens_mean"] == 30 / 12
    assert {name for name in result if "/" in name} <= METRICS.keys()
    low, high = result["sources"]["a"]["average_accuracy"][1:]
    assert low == 0.25 and high == 0.75
    assert summarize([], seed=0) == {}


def test_the_table_names_sources_and_the_macro_average() -> None:
    text = score_table(summarize([score([True, False], True, "a"), score([True, True], True, "b")]))
    lines = text.splitlines()
    assert "avg@2" in lines[0] and "maj@2" in lines[0] and "pass@2" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b", "macro"]
    assert "75.0" in lines[3]
    assert score_table({}) == "no prompt has a reference answer"


def test_greedy_evaluation_draws_one_completion() -> None:
    greedy = evaluation_sampling(EvaluationSection(temperature=0, top_p=0.9), 64)
    assert (greedy.num_completions, greedy.temperature, greedy.top_p) == (1, 0.0, 1.0)
    drawn = evaluation_sampling(EvaluationSection(temperature=0.6, top_p=0.9, completions_per_prompt=8), 64, ("\n",))
    assert (drawn.num_completions, drawn.temperature, drawn.top_p, drawn.stop) == (8, 0.6, 0.9, ("\n",))


def test_a_closed_evaluation_is_summarized_against_the_references(tmp_path: Path) -> None:
    config = make_run(tmp_path / "run")
    path = close_step(
        tmp_path / "run", config, 0, {0: ["7", "7", "3", None], 1: ["8", "1", "8", "1"], 2: ["4"] * 4}, Role.EVAL
    )
    references = References({prompt_id(config, 0): " $7$. ", prompt_id(config, 1): "8"})
    with Grader(VotingSection()) as grader:
        result = summarize(read_scored(path, references, grader))
    assert result["eval/num_prompts"] == 2
    assert result["eval/average_accuracy"] == 0.5
    assert result["eval/majority_accuracy"] == 0.5
    assert result["eval/abstain_share"] == 1 / 8


def test_the_grader_uses_the_configured_equivalence() -> None:
    with Grader(VotingSection()) as exact:
        assert exact.grade("1/2", ["1/2", " 1/2. ", "0.5", None, ""]) == [True, True, False, False, False]
        assert exact.grade("", ["", "1"]) == [False, False]
    section = VotingSection.model_validate({"equivalence": {"name": "math_verify"}})
    with Grader(section) as mathematical:
        assert mathematical.grade("1/2", ["0.5", "\\frac{2}{4}", "2", None]) == [True, True, False, False]
