"""reasoning-gym's scorers as an equivalence: each of two answers must earn full score with the other as label.

A scorer is given an entry with that label and nothing else, so that nothing hidden can reach the vote. The functions
that score run inside worker processes that are killed at their deadline; `check_task` imports nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Any

from quorum.reasoning_gym_tasks import load_tasks

FULL_SCORE = 1.0 - 1e-9
"""What a score must reach."""
_NOT_AN_ANSWER = "~"
"""What a scorer finds equal to this it could not read: some of them find all unreadable texts equal."""
_ARITHMETIC = re.compile(r"(?:[0-9+*/^()\s-]|\.(?=[0-9])|(?<![A-Za-z0-9.])[A-Za-z](?![A-Za-z0-9]))*", re.ASCII)
"""Digits, operators and single letters: no string, name or attribute, so nothing that Python could be told to do."""

FAIR_TASKS: frozenset[str] = frozenset(
    """
    ab acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation binary_matrix caesar_cipher
    chain_sum circuit_logic codeio color_cube_rotation count_bits count_primes course_schedule decimal_chain_sum
    dice emoji_mystery family_relationships figlet_font game_of_life gcd gsm_symbolic isomorphic_strings
    knights_knaves largest_island lcm leg_counting letter_counting letter_jumble list_functions mahjong_puzzle
    manipulate_matrix maze modulo_grid needle_haystack number_filtering number_sequence path_star
    polynomial_equations polynomial_multiplication pool_matrix power_function prime_factorization products
    quantum_lock ransom_note rectangle_count rotate_matrix rotten_oranges self_reference sentence_reordering
    shortest_path simple_equations simple_geometry spell_backward spiral_matrix string_insertion
    string_manipulation string_splitting string_synthesis syllogism tsumego word_sequence_reversal
    """.split()
)
"""Tasks whose scorer can compare two answers: it gives full score to an answer of the task's own prompts when that is
the label, but to no answer of another prompt and to none that is a slip away. Measured with reasoning-gym 0.1.25 in
each task's default configuration, by a data set other than the one that made the prompts.

What a fair scorer forgives is its own affair: power_function compares 3 significant digits, pool_matrix within 1
percent, and those of most tasks compare the text alone.
"""
UNFAIR_TASKS: dict[str, str] = {
    "game_of_life_halting": "ignores_answer",
    "puzzle24": "ignores_answer",
    "coin_flip": "too_tolerant",
    "decimal_arithmetic": "too_tolerant",
    "composite": "not_generated",
    "zebra_puzzles": "not_generated",
    **dict.fromkeys(
        """
        advanced_geometry arc_agi bitwise_arithmetic boxnet calendar_arithmetic complex_arithmetic countdown
        cryptarithm fraction_simplification futoshiki graph_color group_anagrams intermediate_integration jugs
        kakurasu knight_swap mini_sudoku n_queens number_format number_sorting palindrome_generation
        palindrome_partitioning propositional_logic rearc rubiks_cube rush_hour simple_integration sokoban sudoku
        survo time_intervals tower_of_hanoi word_ladder word_sorting
        """.split(),
        "needs_metadata",
    ),
}
"""The other tasks, each with the word of the reason; see REASONS."""
REASONS = {
    "needs_metadata": "it needs the metadata of the prompt's own entry, which can give the hidden answer away",
    "ignores_answer": "it gives full score whatever the label says",
    "too_tolerant": "it gives full score to answers that differ, even of different prompts",
    "not_generated": "it was never put to the test, for want of prompts",
}
"""What each word in UNFAIR_TASKS means, as the end of a sentence."""
_WAY_OUT = "use equivalence exact with extractor reasoning_gym"


def same_by_scorer(task: str, candidate: str, label: str) -> bool:
    """Whether a task's scorer holds two answers the same. Symmetric; runs in a worker process.

    Both directions must earn full score: many scorers forgive a candidate what they do not forgive a label, and one
    direction alone would make a short answer equal to everything that begins with it. An answer that the scorer
    cannot read equals nothing, not even itself.

    Args:
        task: name of a reasoning-gym task; `check_task` says which are meant.
        candidate: one answer.
        label: the other.

    Raises:
        ImportError: reasoning-gym cannot be imported.
        KeyError: reasoning-gym has no such task.
    """
    return (
        earns_full_score(task, candidate, label)
        and earns_full_score(task, label, candidate)
        and not earns_full_score(task, candidate, _NOT_AN_ANSWER)
    )


def earns_full_score(task: str, candidate: str, label: str) -> bool:
    """Whether `candidate` earns full score when `label` is the answer and there is no metadata and no question.

    An exception of the scorer counts as no. No part of either answer is run as code, although some scorers of
    reasoning-gym would.
    """
    scorer = _scorer(task)
    try:
        return bool(float(scorer(candidate, {"answer": label, "metadata": {}})) >= FULL_SCORE)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (whatever it stumbles over, it does not call the two equal)
        return False


def check_task(task: str) -> str | None:
    """What is wrong with a task as an equivalence, or None. Imports nothing.

    Returns:
        One sentence: the nearest task for an unknown name, the reason for an unfair one, and the way out.

    Example:
        >>> check_task("chain_sum") is None
        True
        >>> check_task("puzzle24")
        "the scorer of 'puzzle24' cannot compare two answers: it gives full score whatever the label says; use \
equivalence exact with extractor reasoning_gym"
    """
    if task in FAIR_TASKS:
        return None
    if task in UNFAIR_TASKS:
        return f"the scorer of {task!r} cannot compare two answers: {REASONS[UNFAIR_TASKS[task]]}; {_WAY_OUT}"
    near = difflib.get_close_matches(task, sorted(FAIR_TASKS | UNFAIR_TASKS.keys()), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Otherwise " if near and near[0] in FAIR_TASKS else ""
    if near and not hint:
        hint = f"the nearest is {near[0]!r}, whose scorer cannot compare two answers; "
    return f"reasoning-gym has no task {task!r} that is known here; {hint}{_WAY_OUT}"


def warm_up() -> None:
    """Import reasoning-gym once, before workers are forked."""
    load_tasks()


@cache
def _scorer(task: str) -> Callable[[str, dict[str, Any]], Any]:
    """`score_answer` of a task in its default configuration, unable to run an answer as code."""
    data_set, configuration = load_tasks()[task]
    score: MethodType = data_set(configuration(seed=0, size=1)).score_answer
    names = score.__func__.__code__.co_names
    if "eval" in names:
        score = _without_eval(score)
    return partial(_score_arithmetic, score) if "parse_expr" in names else score


def _without_eval(method: MethodType) -> MethodType:
    """The same method, in which `eval` raises: no scorer gives full score to what it had to evaluate."""
    function = method.__func__
    assert isinstance(function, FunctionType)
    names = {**function.__globals__, "eval": _refuse}
    copied = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    return MethodType(copied, method.__self__)


def _refuse(text: str) -> None:
    raise ValueError("an answer is not run as code")


def _score_arithmetic(score: MethodType, candidate: str, entry: dict[str, Any]) -> Any:
    """For scorers that call sympy's `parse_expr`, which evaluates what it is given."""
    if not (_ARITHMETIC.fullmatch(candidate) and _ARITHMETIC.fullmatch(entry["answer"])):
        return 0.0
    return score(candidate, entry)
