"""The form in which answers are compared first: without outer blanks, wrappers and a final period. Pure."""

from __future__ import annotations

import re

_SPACE = re.compile(r"\s+")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def normalize(answer: str, *, ignore_case: bool = False) -> str:
    r"""An answer without outer and repeated whitespace, $...$ and its kin around it, and a final period.

    Idempotent. Whitespace inside becomes one blank.

    Example:
        >>> normalize(" $ 7 $. "), normalize("New\n  York")
        ('7', 'New York')
    """
    if answer.isalnum():
        return answer.casefold() if ignore_case else answer
    text = _SPACE.sub(" ", answer).strip()
    while (shorter := _strip_once(text)) != text:
        text = shorter
    return text.casefold() if ignore_case else text


def _strip_once(text: str) -> str:
    if text.endswith(".") and not text.endswith(".."):
        return text[:-1].rstrip()
    for left, right in _WRAPPERS:
        if len(text) >= len(left) + len(right) and text.startswith(left) and text.endswith(right):
            inner = text[len(left) : -len(right)]
            if left[0] not in inner if left[0] == "$" else left not in inner and right not in inner:
                return inner.strip()
    return text
