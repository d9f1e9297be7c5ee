"""Answers are read as documented, in linear time, and never raise."""

from __future__ import annotations

import ast
import importlib.util
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from quorum.errors import ConfigError
from voting.extract import extract_boxed, extract_last_number, extract_reasoning_gym, make_extractor


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{9}", "9"),
        (r"\boxed{1} or \fbox{2}", "2"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{}", None),
        (r"\boxed{3} \boxed{  }", None),
        (r"\boxed{3} \boxed{4", None),
        ("no box, 7", None),
        ("", None),
        (r"\boxed 7", None),
    ],
)
def test_boxed_reads_the_last_box_with_nested_braces(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 + 30 = 42", "42"),
        ("the answer is -3.", "-3"),
        ("5-3", "3"),
        ("x - 3 is -7.50", "-7.50"),
        ("(4)-2", "2"),
        ("in total 1,234,567 people", "1234567"),
        ("1,2345", "2345"),
        ("6.02e23 units", "6.02e23"),
        ("minus \u22125", "-5"),
        ("$1,200.50.", "1200.50"),
        ("none", None),
        ("\u00b2", None),
        ("", None),
    ],
)
def test_last_number_keeps_the_sign_and_drops_separators(text: str, answer: str | None) -> None:
    assert extract_last_number(text) == answer


def _reasoning_gym_extract_answer(completion: str) -> str | None:
    """`reasoning_gym.utils.extract_answer` of reasoning-gym 0.1.25."""
    matches = list(re.finditer(r"<answer>\s?(.*?)\s?</answer>", completion, flags=re.DOTALL))
    return matches[-1].group(1).strip() if matches else None


_PIECES = st.sampled_from(["<answer>", "</answer>", " ", "\n", "7", "x y", "<answer", "answer>", "\x1c", "<think>"])


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_reasoning_gym_reads_what_reasoning_gym_reads(text: str) -> None:
    assert extract_reasoning_gym(text) == (_reasoning_gym_extract_answer(text) or None)


def test_the_copy_of_reasoning_gyms_extraction_is_true_to_the_package() -> None:
    package = importlib.util.find_spec("reasoning_gym")
    if package is None or package.origin is None:
        pytest.skip("reasoning-gym is not installed")
    tree = ast.parse((Path(package.origin).parent / "utils.py").read_text())
    source = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "extract_answer")
    module = ast.parse("import re\nfrom typing import Optional\n")
    module.body.append(source)
    names: dict[str, Any] = {}
    exec(compile(module, "reasoning_gym/utils.py", "exec"), names)  # importing the package takes seconds
    for text in ("<answer> 5 </answer>", "<answer>1</answer><answer>\n2\n</answer>", "5", "<answer></answer>"):
        assert _reasoning_gym_extract_answer(text) == names["extract_answer"](text)


@pytest.mark.parametrize(
    ("fallback", "text", "answer"),
    [
        ("abstain", r"\boxed{7}", None),
        ("boxed", r"\boxed{7}", "7"),
        ("last_number", "it is 8", "8"),
        ("text", " yes ", "yes"),
        ("text", "  ", None),
        ("last_number", "<answer></answer> 8", None),
    ],
)
def test_reasoning_gym_falls_back_only_without_a_tag(fallback: str, text: str, answer: str | None) -> None:
    extract = make_extractor(Plugin(name="reasoning_gym", options={"fallback": fallback}))
    assert extract(text) == answer


@pytest.mark.parametrize("name", ["boxed", "last_number", "reasoning_gym"])
@pytest.mark.parametrize(
    "piece", ["<answer>", r"\boxed{", r"\boxed ", r"\fbox{", "{", "1,000,", "1", "-", "\\", "9 ", " ", "\x00\u0663"]
)
def test_a_megabyte_of_anything_is_read_within_two_seconds(name: str, piece: str) -> None:
    extract = make_extractor(Plugin(name=name))
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    extract(text)
    assert time.process_time() - started < 2.0


def test_an_unknown_extractor_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="boxed"):
        make_extractor(Plugin(name="boxd"))


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="voting.extractor.options"):
        make_extractor(Plugin(name="reasoning_gym", options={"fallbak": "text"}))
