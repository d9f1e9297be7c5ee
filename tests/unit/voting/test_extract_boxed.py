"""Boxes, tags and numbers are read as documented, and as the code that they follow."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from voting.extract import (
    TagOptions,
    extract_answer_tags,
    extract_boxed,
    extract_boxed_raw,
    extract_last_number,
    extract_reasoning_gym,
    make_extractor,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{9}", "9"),
        (r"\boxed{1} or \fbox{2}", "2"),
        (r"\fbox{1} or \boxed{2}", "2"),
        (r"\boxed {5}", "5"),
        (r"\boxed{4} or \boxed {5}", "5"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{3} is what the box says", "3"),
        (r"\boxed{3}, put into \boxed form", "3"),
        (r"\boxed{3} \boxedness{4}", "3"),
        ("$$\n\\boxed{\n42\n}\n$$", "42"),
        (r"\boxed{}", None),
        (r"\boxed{3} \boxed{  }", None),
        (r"\boxed{3} \boxed{4", None),
        (r"\boxed{3} \boxed{\{}", r"\{"),
        (r"\boxed{3} \boxed{\}", None),
        ("no box, 7", None),
        ("box", None),
        ("fbox", None),
        ("", None),
    ],
)
def test_boxed_reads_the_last_box_with_nested_braces(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed 7$", "7"),
        (r"so $\boxed7$.", "7"),
        (r"\boxed -1,234.50", "-1,234.50"),
        (r"\boxed{3}, no: \boxed 12 is right", "12"),
        (r"\(\boxed 5\)", "5"),
        (r"\boxed 7x", None),
        (r"\boxed 1/2", None),
        (r"\boxed\frac12", None),
        (r"\boxed C", None),
        (r"\boxed{3} \boxed 7x", "3"),
    ],
)
def test_a_box_without_braces_holds_the_number_after_it_and_nothing_else(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed{1} then \boxed{ 2 }", " 2 "),
        (r"\boxed{3} then \boxed{}", ""),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{3} then \boxed{4", None),
        (r"\fbox{9}", None),
        (r"\boxed{1} or \fbox{2}", "1"),
        (r"\boxed{a\}b}", "a\\"),
        (r"$\boxed 7$ and \boxed{8}", "7"),
        (r"\boxed {5}", "{5}"),
        (r"\boxed", None),
        ("7", None),
    ],
)
def test_boxed_raw_keeps_what_the_official_code_keeps(text: str, answer: str | None) -> None:
    assert extract_boxed_raw(text) == answer


def _official_reading(text: str) -> str | None:
    """The documented behaviour of the official extraction, character by character."""
    if "\\boxed " in text:
        return text.split("\\boxed ")[-1].split("$")[0]
    found = list(re.finditer(r"\\boxed", text))
    depth = 0
    for end in range(found[-1].start() if found else len(text), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if text[end] == "}" and depth == 0:
            box = text[found[-1].start() : end + 1]
            return box[7:-1] if box.startswith("\\boxed{") else None
    return None


_BOX_PIECES = st.sampled_from(["\\boxed", "\\boxed ", "\\boxed{", "{", "}", "\\}", "\\", "$", " ", "7", "\\fbox{", "x"])


@given(st.lists(_BOX_PIECES, max_size=14).map("".join))
def test_boxed_raw_reads_any_text_as_the_official_code_does(text: str) -> None:
    assert extract_boxed_raw(text) == _official_reading(text)


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
        ("1,234" + "x" * 500, "1234"),
        ("7 " + "x " * 500, "7"),
        ("none", None),
        ("\u00b2", None),
        ("", None),
    ],
)
def test_last_number_keeps_the_sign_and_drops_separators(text: str, answer: str | None) -> None:
    assert extract_last_number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>hm</think> <answer> 7 </answer>", "7"),
        ("<answer>3</answer> no, <answer>4</answer>.", "4"),
        ("<answer>3</answer> no, <answer>4", "3"),
        ("<answer>3</answer> </answer>", "3"),
        ("<answer>draft <answer>4</answer>", "4"),
        ("<answer>3</answer> <answer> </answer>", None),
        ("</answer><answer>", None),
        ("<answer>\n1\n2\n</answer>", "1\n2"),
        ("<Answer>3</Answer>", None),
        ("", None),
    ],
)
def test_answer_tags_reads_the_last_closed_tag(text: str, answer: str | None) -> None:
    assert extract_answer_tags(text) == answer


def test_the_tag_can_be_another_one() -> None:
    assert extract_answer_tags("<answer>3</answer> <final>4</final>", TagOptions(tag="final")) == "4"


@pytest.mark.parametrize("tag", ["<answer>", "", "a b", "answer\n"])
def test_a_tag_is_given_by_its_name_alone(tag: str) -> None:
    with pytest.raises(ValueError, match="tag"):
        TagOptions(tag=tag)


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
