"""What every registered answer extractor promises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from voting.extract import EXTRACTORS, extract_with, make_extractor

_MAY_BE_EMPTY_OR_PADDED = {"boxed_raw"}
_READ_NO_PART_OF_THE_TEXT = {"text"}
_PIECES = [
    *(
        "\\boxed{",
        "\\boxed ",
        "\\fbox",
        "\\text{",
        "}",
        "{",
        "{}",
        "\\",
        "<answer>",
        "</answer>",
        "answer is ",
        "Answer:",
    ),
    *(
        "**",
        "*",
        "_",
        "$",
        "\\(",
        "\\]",
        "(",
        ")",
        "A",
        "b",
        "option ",
        "####",
        '{"answer":',
        '"',
        "[",
        "null",
        "\\ud800",
    ),
    *(
        "7",
        "-",
        ",",
        ".",
        " ",
        "\n",
        "\r",
        "\t",
        "\x00",
        "\x1c",
        "\u0663",
        "\u2212",
        "\uff1a",
        "\u0130",
        "e9",
        "x",
        "<|",
    ),
]
_TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(_PIECES), max_size=25).map("".join))
_EVERY_FORM = '<answer>{0}</answer> \\boxed{{{0}}} {{"answer": "{0}"}} The answer is {0}.\n#### {0}\n'

every_extractor = pytest.mark.parametrize("name", sorted(EXTRACTORS))


@every_extractor
@given(text=_TEXTS)
def test_an_extractor_returns_a_stripped_answer_or_abstains(name: str, text: str) -> None:
    answer = make_extractor(Plugin(name=name))(text)
    if name in _MAY_BE_EMPTY_OR_PADDED:
        assert answer is None or answer in text
    else:
        assert answer is None or (answer and answer == answer.strip())


@every_extractor
@given(text=_TEXTS)
def test_an_answer_can_be_stored_and_is_read_the_same_in_a_worker(name: str, text: str) -> None:
    extract = make_extractor(Plugin(name=name))
    answer = extract(text)
    assert (answer or "").encode("utf-8").decode("utf-8") == (answer or "")
    assert extract_with(name, json.loads(json.dumps(extract.options.model_dump(mode="json"))), text) == answer


@every_extractor
def test_nothing_is_no_answer(name: str) -> None:
    assert [make_extractor(Plugin(name=name))(text) for text in ("", " ", "\n\t")] == [None, None, None]


@every_extractor
def test_the_default_options_are_valid(name: str) -> None:
    entry = EXTRACTORS[name]
    assert entry.options.model_validate({}) == entry.options()


@every_extractor
def test_an_option_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="extra"):
        EXTRACTORS[name].options.model_validate({"no_such_option": 1})


@pytest.mark.parametrize("name", sorted(set(EXTRACTORS) - _READ_NO_PART_OF_THE_TEXT))
def test_the_last_answer_counts(name: str) -> None:
    first, last = ("B", "D") if name == "choice" else ("3", "8")
    text = _EVERY_FORM.format(first) + "No, wait.\n" + _EVERY_FORM.format(last)
    assert make_extractor(Plugin(name=name))(text) == last


@every_extractor
def test_a_long_completion_before_the_answer_changes_nothing(name: str) -> None:
    answer = "D" if name == "choice" else "8"
    text = "We think it over, step by step. " * 400 + "\n" + _EVERY_FORM.format(answer)
    expected = text.strip() if name in _READ_NO_PART_OF_THE_TEXT else answer
    assert make_extractor(Plugin(name=name))(text) == expected
