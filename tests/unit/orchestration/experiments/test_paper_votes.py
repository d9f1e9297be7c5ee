"""How the papers' presets read and compare answers where mathematics is no help."""

from __future__ import annotations

import pytest

from orchestration.registries import load_run_config
from orchestration.watch.grade import Grader
from voting.extract import make_extractor

SENTENCE = "Zoey is a knight, and Riley is a knave"


@pytest.mark.parametrize(
    ("reference", "said", "is_right"),
    [
        (f"{SENTENCE}.", SENTENCE, True),
        (f"{SENTENCE}.", rf"\text{{{SENTENCE}.}}", True),
        (f"{SENTENCE}.", "Zoey is a knave, and Riley is a knave", False),
        (f"{SENTENCE}.", "Zoey is a knight", False),  # the task's own scorer would pay a part
        ("0x3eb2", r"\text{0x3EB2}", True),
        ("0x3eb2", "0x3eb3", False),
        ("0x3eb2", "-0x3eb2", False),
        ("mother-in-law", r"\text{Mother-in-law}", True),
        ("mother-in-law", "law", False),
    ],
)
def test_reasoning_gym_answers_are_right_as_a_whole_or_wrong(reference: str, said: str, is_right: bool) -> None:
    section = load_run_config("paper/rg-base").voting
    answer = make_extractor(section.extractor)(rf"First \boxed{{no}}, then \boxed{{{said}}}.")
    with Grader(section) as grader:
        assert grader.grade(reference, [answer]) == [is_right]


def test_gpqa_is_read_as_a_letter() -> None:
    section = load_run_config("paper/ttrl-qwen2.5-math-7b-gpqa").voting
    answer = make_extractor(section.extractor)(r"Option B is close, but the answer is \boxed{C}.")
    with Grader(section) as grader:
        assert grader.grade("C", [answer]) == [True]
