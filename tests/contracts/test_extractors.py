"""What every registered answer extractor promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from voting.extract import EXTRACTORS, make_extractor

_PIECES = ["\\boxed{", "}", "{", "\\", "<answer>", "</answer>", "7", "-", ",", ".", " ", "\n", "\x00", "\u0663", "x"]


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
@given(text=st.one_of(st.text(max_size=30), st.lists(st.sampled_from(_PIECES), max_size=20).map("".join)))
def test_an_extractor_returns_a_stripped_answer_or_abstains(name: str, text: str) -> None:
    answer = make_extractor(Plugin(name=name))(text)
    assert answer is None or (answer and answer == answer.strip())


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
def test_nothing_is_no_answer(name: str) -> None:
    assert make_extractor(Plugin(name=name))("") is None


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
def test_the_default_options_are_valid(name: str) -> None:
    entry = EXTRACTORS[name]
    assert entry.options.model_validate({}) == entry.options()


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
def test_the_last_answer_counts(name: str) -> None:
    text = r"<answer>3</answer> \boxed{3} no: \boxed{8} <answer>8</answer>"
    assert make_extractor(Plugin(name=name))(text) == "8"
