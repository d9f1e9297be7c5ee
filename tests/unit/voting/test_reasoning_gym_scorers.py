"""Scorers of reasoning-gym as an equivalence: what counts as the same, what never runs, which tasks are refused."""

from __future__ import annotations

import builtins
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from quorum.reasoning_gym_tasks import load_tasks
from tests.unit.voting.swapped_answers import near_misses, verdict
from voting.answers.reasoning_gym_scorers import (
    FAIR_TASKS,
    REASONS,
    UNFAIR_TASKS,
    check_task,
    earns_full_score,
    same_by_scorer,
)

ROOT = Path(__file__).parents[3]
ASSIGNMENTS = ("Zoe is a knight, and Ann is a knave.", "Ann is a knave, Zoe is a knight")


@pytest.fixture
def reasoning_gym() -> None:
    pytest.importorskip("cellpylib", reason="reasoning-gym is part of the full stack")


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an attribute of `builtins` that only an answer run as code would set."""
    name = "answer_that_ran"
    monkeypatch.setattr(builtins, name, False, raising=False)
    return name


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize(
    ("task", "one", "other"),
    [
        ("chain_sum", "1,000", "+1000.00"),
        ("decimal_chain_sum", "7.140", "7.14"),
        ("knights_knaves", *ASSIGNMENTS),
        ("polynomial_multiplication", "6*x**2 + 5*x", "5*x + 6*x**2"),
        ("prime_factorization", "2 \u00d7 2 \u00d7 5", "5 \u00d7 2 \u00d7 2"),
        ("game_of_life", "[[0,1],[1,0]]", "[[0, 1], [1, 0]]"),
        ("codeio", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ("family_relationships", "Mother-in-law", "mother-in-law"),
        ("path_star", "4 7  9", "4 7 9"),
        ("shortest_path", "up left", " up left"),
    ],
)
def test_another_way_to_write_an_answer_is_the_same_answer(task: str, one: str, other: str) -> None:
    assert same_by_scorer(task, one, other)
    assert same_by_scorer(task, other, one)


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize(
    ("task", "one", "other"),
    [
        ("chain_sum", "1000", "1001"),
        ("game_of_life", "[[0,1],[1,0]]", "[[0]]"),
        ("letter_jumble", "what may not be", "what"),
        ("gsm_symbolic", "-5", "5"),
        ("knights_knaves", "I do not know", "hello"),
        ("polynomial_equations", "no real solution", "none"),
        ("quantum_lock", "???", "..."),
        ("spiral_matrix", "[1, 2]", "1 2"),
        ("rubiks_cube", "F U R", "F U R"),
        ("calendar_arithmetic", "Friday", "Friday"),
    ],
)
def test_what_differs_or_cannot_be_read_is_not_the_same(task: str, one: str, other: str) -> None:
    assert not same_by_scorer(task, one, other)
    assert not same_by_scorer(task, other, one)


@pytest.mark.usefixtures("reasoning_gym")
def test_one_direction_alone_would_make_a_short_answer_equal_to_many() -> None:
    assert earns_full_score("game_of_life", "[[0,1],[1,0]]", "[[0]]")
    assert earns_full_score("letter_jumble", "what may not be", "what")
    assert earns_full_score("gsm_symbolic", "-5", "5")


@pytest.mark.usefixtures("reasoning_gym")
def test_answers_of_two_prompts_are_one_to_a_scorer_that_is_too_tolerant() -> None:
    assert same_by_scorer("decimal_arithmetic", "0.0367697594502", "0.0371830192297")
    assert same_by_scorer("coin_flip", "3.051757812e-05", "6.103515625e-05")


@pytest.mark.usefixtures("reasoning_gym")
def test_a_task_that_does_not_exist_is_an_error_and_not_a_difference() -> None:
    with pytest.raises(KeyError):
        same_by_scorer("chain_sums", "1", "1")


@pytest.mark.usefixtures("reasoning_gym")
def test_no_answer_is_run_as_code(canary: str) -> None:
    call = f"setattr(__import__('builtins'), {canary!r}, True)"
    for task, answer in product(sorted(FAIR_TASKS), (call, f"[{call}]", f"x + {call}")):
        same_by_scorer(task, answer, "1")
        same_by_scorer(task, "1", answer)
        assert getattr(builtins, canary) is False, f"{task} ran {answer}"


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize("task", ["binary_matrix", "spiral_matrix", "string_insertion", "polynomial_multiplication"])
def test_the_package_itself_would_run_it(task: str, canary: str) -> None:
    data_set, configuration = load_tasks()[task]
    call = f"setattr(__import__('builtins'), {canary!r}, True)"
    data_set(configuration(seed=0, size=1)).score_answer(call, {"answer": "1", "metadata": {}})
    assert getattr(builtins, canary) is True


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize("text", ["ab", "eval(x)", "x.n", "x . n", "_", "'x'", "x[1]", "0x1f", "1e5", "\uff45\uff56"])
def test_an_expression_with_more_than_letters_and_operators_is_not_evaluated(text: str) -> None:
    assert not earns_full_score("polynomial_multiplication", text, text)


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize(
    "task", ["ab", "chain_sum", "syllogism", "quantum_lock", "game_of_life_halting", "word_ladder", "boxnet"]
)
def test_the_swapped_answer_test_gives_a_task_the_place_it_has(task: str) -> None:
    assert verdict(task) == UNFAIR_TASKS.get(task, "fair")


@pytest.mark.usefixtures("reasoning_gym")
def test_every_task_of_the_package_is_either_fair_or_unfair_for_a_reason() -> None:
    assert load_tasks().keys() == FAIR_TASKS | UNFAIR_TASKS.keys()
    assert not FAIR_TASKS & UNFAIR_TASKS.keys()
    assert set(UNFAIR_TASKS.values()) == REASONS.keys()


def test_near_misses_differ_from_the_answer() -> None:
    assert near_misses("-50") == {"50", "-51.00"}
    assert near_misses("a b") == {"a", "b"}
    assert near_misses("[1, 2]") == {"[1]", "[2]", "[1,", "2]", "[1", " 2]"}
    assert near_misses("0") == set()


def test_a_fair_task_passes_the_check() -> None:
    assert [task for task in FAIR_TASKS if check_task(task) is not None] == []


@pytest.mark.parametrize("task", sorted(UNFAIR_TASKS))
def test_an_unfair_task_is_refused_with_its_reason_and_the_way_out(task: str) -> None:
    error = check_task(task)
    assert error is not None and "\n" not in error
    assert repr(task) in error and REASONS[UNFAIR_TASKS[task]] in error
    assert "exact" in error and "reasoning_gym" in error


def test_an_unknown_task_names_the_nearest() -> None:
    assert "did you mean 'chain_sum'?" in str(check_task("chain_sums"))
    assert "the nearest is 'rubiks_cube', whose scorer cannot compare two answers" in str(check_task("rubiks_cub"))
    for task in ("chain_sums", "rubiks_cub", "quite another thing", ""):
        assert f"no task {task!r}" in str(check_task(task)) and "use equivalence exact" in str(check_task(task))


def test_checking_a_task_imports_neither_reasoning_gym_nor_sympy() -> None:
    code = (
        "import sys; from voting.answers.reasoning_gym_scorers import check_task; "
        "check_task('chain_sum'); check_task('x'); "
        "print(sorted({'reasoning_gym', 'sympy', 'pycosat'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
