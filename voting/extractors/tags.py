"""Reads what stands between tags: `<answer>...</answer>`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from quorum.registry import Options
from voting.extractors.boxed import extract_boxed
from voting.extractors.last_number import extract_last_number

_OPEN, _CLOSE = "<answer>", "</answer>"


class TagOptions(Options):
    """Options of the tag extractor."""

    tag: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = "answer"
    """Name of the tag, without angle brackets."""


_ANSWER_TAG = TagOptions()


def extract_answer_tags(text: str, options: TagOptions = _ANSWER_TAG) -> str | None:
    """Content of the last closed `<answer>...</answer>`, or of another tag.

    A tag that is opened and never closed does not count; of tags inside each other the innermost does. Tags are read
    as they are written: without attributes, case matters.

    Args:
        text: one completion.
        options: the tag's name.

    Returns:
        The content without surrounding whitespace; None when nothing is closed, or the last one is empty.

    Example:
        >>> extract_answer_tags("<answer>4</answer> no: <answer> 5 </answer> or <answer>6")
        '5'
        >>> extract_answer_tags("<final>7</final>", TagOptions(tag="final"))
        '7'
    """
    opening, closing = f"<{options.tag}>", f"</{options.tag}>"
    start = text.rfind(opening, 0, max(0, text.rfind(closing)))
    if start < 0:
        return None
    start += len(opening)
    return text[start : text.find(closing, start)].strip() or None


class ReasoningGymOptions(Options):
    """Options of the reasoning-gym extractor."""

    fallback: Literal["abstain", "boxed", "last_number", "text"] = "abstain"
    """Where a completion without a closed <answer> tag is read from; reasoning-gym itself abstains."""


_ABSTAIN = ReasoningGymOptions()


def extract_reasoning_gym(text: str, options: ReasoningGymOptions = _ABSTAIN) -> str | None:
    """Content of the last `<answer>...</answer>`, as reasoning-gym's own `extract_answer` reads it.

    Tags pair from the left: an opening tag with the next closing one. Unlike reasoning-gym's regular expression
    this takes linear time on unclosed tags, and an empty answer abstains.

    Args:
        text: one completion.
        options: what to do without a closed tag.

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
    if has_tag or options.fallback == "abstain":
        return found
    if options.fallback == "boxed":
        return extract_boxed(text)
    return extract_last_number(text) if options.fallback == "last_number" else text.strip() or None
