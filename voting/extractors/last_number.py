"""Reads the last number of a completion."""

from __future__ import annotations

import re

from quorum.registry import Options
from voting.extractors.search import last_match

_NUMBER = re.compile(r"[0-9](?:[0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]*+)(?:\.[0-9]+)?+(?:[eE][+-]?[0-9]+)?+")
_BEFORE_BINARY_MINUS = re.compile(r"[0-9A-Za-z)\]}]")
_MINUS = "-\u2212"


def extract_last_number(text: str, options: Options | None = None) -> str | None:
    """The last number in the text, with its sign and without thousands separators.

    A minus counts as a sign only where it cannot be an operator ("5-3" ends in 3, "is -3" in -3).

    Args:
        text: one completion.
        options: none are read.

    Returns:
        The number as written otherwise ("7.50" stays "7.50"); None when there is none.

    Example:
        >>> extract_last_number("So 12 + 1,188 = 1,200.")
        '1200'
    """
    last = last_match(_NUMBER, text)
    return _sign(text, last.start()) + last[0].replace(",", "") if last else None


def _sign(text: str, start: int) -> str:
    if start == 0 or text[start - 1] not in _MINUS:
        return ""
    before = text[start - 2] if start >= 2 else ""
    return "" if before and _BEFORE_BINARY_MINUS.match(before) else "-"
