"""Reads an answer by the user's own regular expression, which may take for ever: it is no linear extractor."""

from __future__ import annotations

import re
from collections import deque
from typing import Literal

from pydantic import ValidationInfo, field_validator

from quorum.registry import Options


class RegexOptions(Options):
    """Options of the regular-expression extractor."""

    pattern: str = r"####\s*(.+)"
    """A Python regular expression; flags stand in it, as `(?s)`. The default reads GSM8K's final lines."""
    group: int | str | None = None
    """Number or name of the group that is the answer, 0 for the whole match; None takes 1, or 0 without groups."""
    occurrence: Literal["last", "first"] = "last"
    """Which match counts."""
    ignore_case: bool = False
    """Whether capitals and small letters are the same."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}, got {pattern!r}") from error
        except (RecursionError, OverflowError) as error:
            raise ValueError(f"too large a regular expression ({type(error).__name__})") from error
        return pattern

    @field_validator("group")
    @classmethod
    def _check_group(cls, group: int | str | None, info: ValidationInfo) -> int | str | None:
        if group is None or "pattern" not in info.data:
            return group
        compiled = re.compile(info.data["pattern"])
        if isinstance(group, str) and group not in compiled.groupindex:
            known = f"known: {', '.join(compiled.groupindex)}" if compiled.groupindex else "it names none"
            raise ValueError(f"the pattern has no group called {group!r} ({known})")
        if isinstance(group, int) and not 0 <= group <= compiled.groups:
            raise ValueError(f"the pattern has {compiled.groups} groups (0 is the whole match), got {group}")
        return group


_GSM8K = RegexOptions()


def extract_regex(text: str, options: RegexOptions = _GSM8K) -> str | None:
    r"""The group of the last (or first) match of a regular expression.

    Matches that are empty as a whole are passed over (`[0-9]*` matches nothing at every place); of the one that
    counts an empty or missing group abstains.

    Args:
        text: one completion.
        options: the pattern, its group and which match.

    Returns:
        The group without surrounding whitespace; None without a match or when the group is empty.

    Example:
        >>> extract_regex("48 + 24 = 72\n#### 72")
        '72'
        >>> extract_regex("x=1, x=2", RegexOptions(pattern=r"x=(?P<x>\d)", group="x", occurrence="first"))
        '1'
    """
    compiled = re.compile(options.pattern, re.IGNORECASE if options.ignore_case else 0)
    group = options.group if options.group is not None else min(1, compiled.groups)
    matches = (match for match in compiled.finditer(text) if match[0] or match[group])
    match = next(matches, None) if options.occurrence == "first" else next(iter(deque(matches, maxlen=1)), None)
    answer: str | None = match[group] if match else None
    return (answer.strip() or None) if answer is not None else None
