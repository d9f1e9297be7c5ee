"""Reads the final answer from a completion's text. Every extractor is linear in the text and never raises.

No answer is an abstention (None); an empty answer is none.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

from configs.schema import Plugin
from quorum.registry import Entry, Options, Registry
from voting.plugins import choose

Extractor = Callable[[str], str | None]
"""Text of one completion -> its answer, stripped, or None to abstain."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"(?<![0-9])(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BEFORE_BINARY_MINUS = re.compile(r"[0-9A-Za-z)\]}]")
_MINUS = "-\u2212"
_OPEN, _CLOSE = "<answer>", "</answer>"


def extract_boxed(text: str, options: Options | None = None) -> str | None:
    r"""Content of the last `\boxed{}` or `\fbox{}`, nested braces included.

    Only the last one counts: when it is empty or never closed the completion abstains, rather than vote with
    an earlier draft. Escaped braces (`\{`) do not nest.

    Args:
        text: one completion.
        options: none are read.

    Returns:
        The content without surrounding whitespace; None when there is no box, or the last is empty or open.

    Example:
        >>> extract_boxed(r"First \boxed{3}, no: \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
        >>> extract_boxed(r"\boxed{}") is None
        True
    """
    box = _last_match(_BOX, text)
    if box is None:
        return None
    start = box.end()
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return text[start : match.start()].strip() or None
    return None


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
    last = _last_match(_NUMBER, text)
    return _sign(text, last.start()) + last.group().replace(",", "") if last else None


class ReasoningGymOptions(Options):
    """Options of the reasoning-gym extractor."""

    fallback: Literal["abstain", "boxed", "last_number", "text"] = "abstain"
    """Where a completion without a closed <answer> tag is read from; reasoning-gym itself abstains."""


def extract_reasoning_gym(text: str, options: Options | None = None) -> str | None:
    """Content of the last `<answer>...</answer>`, as reasoning-gym's own `extract_answer` reads it.

    Tags pair from the left: an opening tag with the next closing one. Unlike reasoning-gym's regular expression
    this takes linear time on unclosed tags, and an empty answer abstains.

    Args:
        text: one completion.
        options: a ReasoningGymOptions.

    Returns:
        The content without surrounding whitespace, or what the fallback finds.

    Example:
        >>> extract_reasoning_gym("<answer>4</answer> no: <answer> 5 </answer>")
        '5'
        >>> extract_reasoning_gym("The answer is 5") is None
        True
    """
    found: str | None = None
    has_tag = False
    position = 0
    while (start := text.find(_OPEN, position)) >= 0:
        start += len(_OPEN)
        end = text.find(_CLOSE, start)
        if end < 0:
            break
        found, has_tag = text[start:end].strip() or None, True
        position = end + len(_CLOSE)
    fallback = options.fallback if isinstance(options, ReasoningGymOptions) else "abstain"
    if has_tag or fallback == "abstain":
        return found
    if fallback == "boxed":
        return extract_boxed(text)
    return extract_last_number(text) if fallback == "last_number" else text.strip() or None


EXTRACTORS: Registry = {
    "boxed": Entry(extract_boxed),
    "last_number": Entry(extract_last_number),
    "reasoning_gym": Entry(extract_reasoning_gym, ReasoningGymOptions),
}
"""Answer extractors by name; each is called as `target(text, options)` and returns a string or None."""


def make_extractor(plugin: Plugin) -> Extractor:
    """The extractor that a configuration names, options bound.

    Raises:
        ConfigError: unknown name or wrong options.

    Example:
        >>> make_extractor(Plugin(name="boxed"))(r"It is \\boxed{7}.")
        '7'
    """
    target, options = choose(EXTRACTORS, plugin, "voting.extractor")
    return partial(_call, target, options)


def _call(target: Callable[[str, Options], str | None], options: Options, text: str) -> str | None:
    return target(text, options)


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None


def _sign(text: str, start: int) -> str:
    if start == 0 or text[start - 1] not in _MINUS:
        return ""
    before = text[start - 2] if start >= 2 else ""
    return "" if before and _BEFORE_BINARY_MINUS.match(before) else "-"
