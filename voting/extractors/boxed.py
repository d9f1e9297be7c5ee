r"""Reads the last `\boxed{}` of a completion: as users mean it, and as the official SRT code reads it."""

from __future__ import annotations

import re

from quorum.registry import Options

_BRACED = "\\boxed{"
_SPACED = "\\boxed "
_NUMBER = r"[-+\u2212]?[0-9]+(?:,[0-9]{3})*+(?:\.[0-9]+)?+"
_END = r"[\s$.,;:!?)\]}*]|\\[)\]]|\Z"
_BOX = re.compile(rf"\\(?:boxed|fbox)(?:\s*+\{{|[ \t]*+({_NUMBER})(?={_END}))")
_BRACE = re.compile(r"[{}]")
_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_boxed(text: str, options: Options | None = None) -> str | None:
    r"""Content of the last `\boxed{}` or `\fbox{}`, nested braces included.

    Only the last one counts: when it is empty or never closed the completion abstains, rather than vote with
    an earlier draft. Escaped braces (`\{`) do not nest. Without braces a box holds the number that follows it
    (`\boxed 7`, `\boxed7`, as in reference solutions of MATH); before anything else (`put it into \boxed form`) it is
    no box, and the one before counts.

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
        >>> extract_boxed(r"so $\boxed 7$")
        '7'
    """
    start = text.rfind(_BRACED) + len(_BRACED)
    if start < len(_BRACED) or text.rfind("box", start) >= 0:
        box = _last_box(text)
        if box is None:
            return None
        if box[1] is not None:
            return box[1]
        start = box.end()
    end = text.find("}", start)
    content = text[start:end]
    if end >= 0 and ("{" in content or "\\" in content):
        end = _closing_brace(_BRACE_OR_ESCAPE, text, start)
        content = text[start:end]
    return content.strip() or None if end >= 0 else None


def extract_boxed_raw(text: str, options: Options | None = None) -> str | None:
    r"""Content of the last `\boxed{}` as the official SRT code reads it, for the rule `srt_compat`.

    That is `last_boxed_only_string` with `remove_boxed` (`verl/utils/reward_score` of github.com/tajwarfahim/srt):
    verbatim, surrounding whitespace kept, every brace counted though it be escaped. An empty box is the answer ""
    (it votes there), which no other extractor returns. Where `\boxed` is followed by a blank anywhere, the answer is
    the text after the last such place up to the next "$", whatever it is. `\fbox` is no box.

    Args:
        text: one completion.
        options: none are read.

    Returns:
        The content as it stands; None when the last box is open, has no brace or there is none.

    Example:
        >>> extract_boxed_raw(r"\boxed{ 7 }"), extract_boxed_raw(r"\boxed{}"), extract_boxed_raw("7")
        (' 7 ', '', None)
    """
    start = text.rfind(_SPACED) + len(_SPACED)
    if start >= len(_SPACED):
        end = text.find("$", start)
        return text[start:end] if end >= 0 else text[start:]
    start = text.rfind("\\boxed") + len(_BRACED)
    if start < len(_BRACED) or text[start - 1 : start] != "{":
        return None
    end = _closing_brace(_BRACE, text, start)
    return text[start:end] if end >= 0 else None


def _last_box(text: str) -> re.Match[str] | None:
    r"""The last `\boxed` or `\fbox` that is a box."""
    at = len(text)
    while (at := text.rfind("box", 0, at)) > 0:
        start = at - 2 if text[at - 1] == "f" else at - 1
        if start >= 0 and text[start] == "\\" and (box := _BOX.match(text, start)):
            return box
    return None


def _closing_brace(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where the brace that was opened before `start` closes; -1 when it never does."""
    depth = 1
    for match in pattern.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1
