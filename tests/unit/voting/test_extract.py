"""The registry of extractors: chosen, bound, chained, called by workers, and linear where they say so."""

from __future__ import annotations

import doctest
import importlib
import pickle
import pkgutil
import time

import pytest

import voting.extractors
from configs.schema import Plugin
from quorum.errors import ConfigError
from quorum.registry import Entry, Options
from voting.extract import EXTRACTORS, ChainOptions, ExtractorEntry, extract_with, make_extractor

_LINEAR = ["answer_tags", "boxed", "boxed_raw", "choice", "final_answer", "last_number", "reasoning_gym", "text"]
_MEGABYTE = 1_000_000


def extract_shout(text: str, options: Options) -> str | None:
    return text.upper() or None


def test_these_extractors_are_linear_by_default() -> None:
    assert [name for name in sorted(EXTRACTORS) if make_extractor(Plugin(name=name)).is_linear] == sorted(
        [*_LINEAR, "chain"]
    )


@pytest.mark.parametrize("name", _LINEAR)
@pytest.mark.parametrize(
    "piece",
    [
        *("\\boxed{", "\\boxed ", "\\fbox{", "box", "<answer>", "</answer>", "answer is ", "Answer:**", "answer is (C"),
        *("final answer\n", "1,000,", "1", "9 ", "((((", "-", "\\", "{", "}", "$", "*.", "__C. ", " ", "\x00\u0663"),
    ],
)
def test_twice_the_text_takes_about_twice_the_time_and_a_megabyte_less_than_two_seconds(name: str, piece: str) -> None:
    extract = make_extractor(Plugin(name=name))
    seconds = []
    for size in (_MEGABYTE // 2, _MEGABYTE):
        text = piece * (size // len(piece))
        started = time.process_time()
        extract(text)
        seconds.append(time.process_time() - started)
    assert seconds[1] < min(2.0, 3 * seconds[0] + 0.2)


@pytest.mark.parametrize("opening", ["The answer is ", "The answer is $", "\\boxed{", "**", "<answer>"])
@pytest.mark.parametrize("piece", ["(", "* ", "*.", "$", "} ", "\n", "C and ", "x. "])
@pytest.mark.parametrize("name", ["boxed", "boxed_raw", "choice", "final_answer"])
def test_a_statement_of_a_megabyte_takes_less_than_two_seconds(name: str, opening: str, piece: str) -> None:
    text = opening + piece * (_MEGABYTE // len(piece))
    started = time.process_time()
    make_extractor(Plugin(name=name))(text)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("of", "is_linear"),
    [
        (["boxed", "last_number"], True),
        (["boxed", {"name": "chain", "options": {"of": ["choice", "text"]}}], True),
        (["boxed", "regex"], False),
        (["boxed", {"name": "chain", "options": {"of": ["json_field"]}}], False),
    ],
)
def test_a_chain_is_linear_when_all_its_members_are(of: list[object], is_linear: bool) -> None:
    assert make_extractor(Plugin(name="chain", options={"of": of})).is_linear is is_linear


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is 3. I write \boxed{7} and 9.", "7"),
        ("The answer is $x$. There are 9.", "x"),
        ("It comes to 9.", "9"),
        (r"\boxed{} and 9", "9"),
        ("I do not know.", None),
    ],
)
def test_a_chain_takes_the_first_extractor_that_finds_an_answer(text: str, answer: str | None) -> None:
    assert make_extractor(Plugin(name="chain"))(text) == answer


def test_an_empty_raw_box_is_no_answer_of_a_chain() -> None:
    assert make_extractor(Plugin(name="boxed_raw"))(r"7 \boxed{}") == ""
    assert make_extractor(Plugin(name="chain", options={"of": ["boxed_raw", "last_number"]}))(r"7 \boxed{}") == "7"


def test_members_of_a_chain_have_options_of_their_own() -> None:
    of = [{"name": "answer_tags", "options": {"tag": "final"}}, {"name": "regex", "options": {"pattern": "= (.)"}}]
    extract = make_extractor(Plugin(name="chain", options={"of": of}))
    assert [extract("<final>7</final> = 8"), extract("<answer>7</answer> = 8")] == ["7", "8"]


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (["boxed", "last_numbr"], r"options\.of\.1: no plug-in is called 'last_numbr'; did you mean 'last_number'\?"),
        (["chain", {"name": "chain", "options": {"of": ["bxed"]}}], r"of\.1: .*'bxed'; did you mean 'boxed'"),
        ([{"name": "regex", "options": {"pattern": "("}}], r"of\.0: regex\.options\.pattern: not a regular expression"),
        ([{"name": "regex", "options": {"pattern_": "("}}], r"did you mean regex\.options\.pattern"),
        ([], r"options\.of: .*at least 1"),
        ([7], r"options\.of\.0"),
    ],
)
def test_a_chain_of_what_does_not_exist_is_refused_and_the_nearest_named(of: list[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_extractor(Plugin(name="chain", options={"of": of}))


def test_an_unknown_extractor_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="boxed"):
        make_extractor(Plugin(name="boxd"))


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="voting.extractor.options"):
        make_extractor(Plugin(name="reasoning_gym", options={"fallbak": "text"}))


def test_a_bound_extractor_shows_its_name_and_validated_options_and_survives_pickling() -> None:
    extract = make_extractor(Plugin(name="chain", options={"of": ["choice"]}))
    assert (extract.name, extract.options) == ("chain", ChainOptions(of=(Plugin(name="choice"),)))
    assert pickle.loads(pickle.dumps(extract)) == extract
    assert pickle.loads(pickle.dumps(extract))("Answer: C") == "C"


def test_a_users_plain_entry_works_and_counts_as_not_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRACTORS, "shout", Entry(extract_shout))
    monkeypatch.setitem(EXTRACTORS, "linear_shout", ExtractorEntry(extract_shout, is_linear=True))
    assert make_extractor(Plugin(name="shout"))("yes") == "YES"
    assert make_extractor(Plugin(name="shout")).is_linear is False
    assert make_extractor(Plugin(name="linear_shout")).is_linear is True
    assert make_extractor(Plugin(name="chain", options={"of": ["boxed", "shout"]})).is_linear is False


def test_a_worker_reads_by_name_and_json_options_and_keeps_what_it_bound() -> None:
    options = {"of": [{"name": "regex", "options": {"pattern": "= (.)"}}, "text"]}
    assert extract_with("chain", options, "x = 7") == "7"
    started = time.process_time()
    assert [extract_with("chain", options, f"x = {i}") for i in range(10)] == [str(i) for i in range(10)]
    for _ in range(1000):
        extract_with("boxed", {}, "\\boxed{7}")
    assert time.process_time() - started < 0.5
    with pytest.raises(ConfigError, match="boxed"):
        extract_with("boxd", {}, "")


@pytest.mark.parametrize(
    "module",
    [
        "voting.extract",
        *(f"voting.extractors.{module.name}" for module in pkgutil.iter_modules(voting.extractors.__path__)),
    ],
)
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert (failed, attempted > 0) == (0, True)
