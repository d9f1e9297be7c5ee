"""Answers by the user's pattern and from JSON; wrong options say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from configs.schema import Plugin
from quorum.errors import ConfigError
from voting.extract import extract_json_field, make_extractor
from voting.extractors.json_field import JsonFieldOptions


@pytest.mark.parametrize(
    ("options", "text", "answer"),
    [
        ({}, "48 + 24 = 72\n#### 72\n", "72"),
        ({"pattern": r"x=\d"}, "x=1 x=2", "x=2"),
        ({"pattern": r"x=(\d)"}, "x=1 x=2", "2"),
        ({"pattern": r"x=(\d)", "occurrence": "first"}, "x=1 x=2", "1"),
        ({"pattern": r"x=(\d)", "group": 0}, "x=1 x=2", "x=2"),
        ({"pattern": r"(.)=(?P<value>\d)", "group": "value"}, "x=1", "1"),
        ({"pattern": r"(.)=(\d)", "group": 2}, "x=1", "1"),
        ({"pattern": r"ANSWER (\w)"}, "answer b", None),
        ({"pattern": r"ANSWER (\w)", "ignore_case": True}, "answer b", "b"),
        ({"pattern": r"(?s)<a>(.*?)</a>"}, "<a> 1\n2 </a>", "1\n2"),
        ({"pattern": r"<a>(.*?)</a>"}, "<a>1</a> <a> </a>", None),
        ({"pattern": r"a(b)?"}, "ab a", None),
        ({"pattern": r"[0-9]*"}, "12 and 34.", "34"),
        ({"pattern": r"[0-9]*", "occurrence": "first"}, "so 12 and 34.", "12"),
        ({"pattern": "z"}, "no", None),
    ],
)
def test_regex_reads_the_group_of_the_match_that_counts(options: dict[str, Any], text: str, answer: str | None) -> None:
    assert make_extractor(Plugin(name="regex", options=options))(text) == answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(x"}, r"options\.pattern: not a regular expression: missing \).* position 0, got '\(x'"),
        ({"pattern": "(?P<a>x)", "group": "b"}, r"options\.group: the pattern has no group called 'b' \(known: a\)"),
        ({"pattern": "(x)", "group": "b"}, r"options\.group: .*it names none"),
        ({"pattern": "(x)", "group": 2}, r"options\.group: the pattern has 1 groups \(0 is the whole match\), got 2"),
        ({"pattern": "(x)", "group": -1}, r"options\.group: .*got -1"),
        ({"pattern": "(x", "group": 1}, r"options\.pattern"),
        ({"pattern_": "x"}, r"did you mean voting\.extractor\.options\.pattern"),
        ({"occurrence": "second"}, r"options\.occurrence"),
    ],
)
def test_a_wrong_pattern_or_group_is_refused_and_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_extractor(Plugin(name="regex", options=options))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"answer": "7"}', "7"),
        ('{"answer": 7}', "7"),
        ('{"answer": 7.50}', "7.5"),
        ('{"answer": true}', "true"),
        ('{"answer": 0}', "0"),
        ('{"answer": [2, 1]}', "[2,1]"),
        ('{"answer": {"b": 1, "a": "\u00e9"}}', '{"a":"\u00e9","b":1}'),
        ('Thus:\n```json\n{\n  "reasoning": "use {x}",\n  "answer": " 42 "\n}\n```\nDone.', "42"),
        ('{"answer": 6} no: {"answer": 7} {"note": "done"}', "7"),
        ('\\frac{1}{2} {"answer": "a\nb"}', "a\nb"),
        ('{"answer": 6} {"answer": null}', None),
        ('{"answer": 6} {"answer": " "}', None),
        ('{"result": {"answer": 6}}', None),
        ('{"answer": 6} and then {"answer": 7', "6"),
        ("{'answer': 6}", None),
        ('{"answer": "\\ud800"}', "?"),
        ('{"a":' * 5000, None),
        ('{"answer": ' + "[" * 5000 + "]" * 5000 + "}", None),
        ('{"answer": ' + "9" * 5000 + "}", None),
        ("", None),
    ],
)
def test_json_field_reads_the_last_outermost_object_that_has_the_field(text: str, answer: str | None) -> None:
    assert extract_json_field(text) == answer


def test_a_dotted_field_reaches_into_objects() -> None:
    options = JsonFieldOptions(field="result.final")
    assert extract_json_field('{"result": {"final": 7}, "final": 8}', options) == "7"
    assert extract_json_field('{"result": [7]} {"result": "final"}', options) is None


@pytest.mark.parametrize("field", ["", ".", "a.", ".a", "a..b"])
def test_a_field_has_no_empty_part(field: str) -> None:
    with pytest.raises(ValueError, match="field"):
        JsonFieldOptions(field=field)
