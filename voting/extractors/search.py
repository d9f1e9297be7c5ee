"""Finds the last match of a pattern without reading a long completion from its start."""

from __future__ import annotations

import re
from collections import deque

_TAIL = 400
"""Characters at the end that are searched first."""


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match in the text, as the last of `pattern.finditer(text)` but from the end.

    Args:
        pattern: what it matches from a blank on must not depend on a match that began before: no match holds a blank,
            or none can begin inside another.
        text: its end is searched first, from a blank on, then the whole: at most twice the time of one search.

    Returns:
        The match, at its place in the whole text; None when there is none.

    Example:
        >>> last_match(re.compile("[0-9]+"), "1 and 22").group()
        '22'
    """
    cut = text.rfind(" ", 0, max(0, len(text) - _TAIL)) + 1
    matches = deque(pattern.finditer(text, cut), maxlen=1)
    if not matches and cut:
        matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None
