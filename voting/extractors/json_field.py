"""Reads a field of a JSON object. Nested or broken objects can take quadratic time: it is no linear extractor."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field

from quorum.registry import Options

_OBJECT = re.compile(r'\{\s*+"')
_DECODER = json.JSONDecoder(strict=False)
_MISSING = object()


class JsonFieldOptions(Options):
    """Options of the JSON extractor."""

    field: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")] = "answer"
    """Name of the field; dots reach into nested objects (`result.final`)."""


_ANSWER_FIELD = JsonFieldOptions()


def extract_json_field(text: str, options: JsonFieldOptions = _ANSWER_FIELD) -> str | None:
    """A field of the last JSON object in the text that has it, in a code fence or not.

    Only outermost objects are looked at: the path leads from there. Line breaks inside strings are let pass.

    Args:
        text: one completion.
        options: the field's path.

    Returns:
        A string without surrounding whitespace; any other value as compact JSON with sorted keys. None when no
        object has the field, or the last one that has it holds null or an empty string.

    Example:
        >>> extract_json_field('First {"answer": 6}, no: {"steps": [1], "answer": {"y": 2, "x": 1.5}}')
        '{"x":1.5,"y":2}'
        >>> extract_json_field('{"result": {"final": " 7 "}}', JsonFieldOptions(field="result.final"))
        '7'
    """
    path = options.field.split(".")
    found: Any = None
    position = 0
    while start := _OBJECT.search(text, position):
        try:
            value, position = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            position = start.start() + 1
            continue
        leaf = _leaf(value, path)
        found = found if leaf is _MISSING else leaf
    return _as_answer(found)


def _leaf(value: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _as_answer(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        try:
            value = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        except RecursionError:
            return None
    # an escaped half of a surrogate pair is valid JSON, but no text that could be stored
    return value.encode("utf-8", "replace").decode("utf-8").strip() or None
