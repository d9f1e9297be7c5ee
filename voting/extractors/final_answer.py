"""Reads what a completion states as its answer: "The final answer is X.", "**Answer:** X"."""

from __future__ import annotations

import re

from quorum.registry import Options
from voting.extractors.boxed import extract_boxed
from voting.extractors.search import last_match

_STATES = r"(?<![A-Za-z0-9].)(?i:nswer)(?:[\s*_]++(?i:is)\b(?:[ \t*_]*+[:\uff1a])?|[ \t*_]*+[:\uff1a])"
_HEADING = r"[#*_ \t]*+(?i:final answer)[*_ \t\r]*+(?=\n\s*+(?!is\b))"
_MARKER = re.compile(rf"a{_STATES}|A{_STATES}|\n{_HEADING}")
"""Each branch begins with a letter as it is: so much faster to search for than without regard to case."""
_SKIPPED = re.compile(r"(?:[\s}]|[*_]++(?=\s))*+")
_EMPHASIS = re.compile(r"[*_]{1,3}")
_END = re.compile(r"""\n|</|<\||[.!?](?=[*_"'\u201d]*+(?:\s|\Z|<))|\u3002""")
_MATH = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
_SPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace())
_LOOSE = _SPACE + "*_"
_FINAL = _LOOSE + ".,;:"


def extract_final_answer(text: str, options: Options | None = None) -> str | None:
    r"""What follows the last "final answer is", "answer is" or "answer:", up to the end of the sentence or line.

    Case, the article before, bold markers, a colon and line breaks after the words do not matter; a heading line
    "Final Answer" counts as well. The point of a decimal ends no sentence, an exclamation mark does (a factorial
    stands in math: `$5!$`). Around the whole of it `$...$`, `$$...$$`, `\(...\)`, `\[...\]` and emphasis are taken
    off, math at its start may reach over lines, and of a statement with a `\boxed{}` the box is the answer. Only the
    last statement counts: when nothing follows it, the completion abstains.

    Args:
        text: one completion.
        options: none are read.

    Returns:
        The statement without surrounding whitespace and final punctuation; None when there is none.

    Example:
        >>> extract_final_answer("The final answer is $x^2$. I hope it is correct.")
        'x^2'
        >>> extract_final_answer("**Answer:** 3.5 km\nThat is all.")
        '3.5 km'
    """
    text = "\n" + text
    marker = last_match(_MARKER, text)
    skipped = _SKIPPED.match(text, marker.end()) if marker else None
    if skipped is None:
        return None
    emphasis = _EMPHASIS.match(text, skipped.end())
    if emphasis is None:
        answer = _statement(text, skipped.end())
    else:
        answer = _statement(text, emphasis.end()).replace(emphasis[0], "", 1)
    if "\\boxed" in answer or "\\fbox" in answer:
        return extract_boxed(answer)
    return _bare(_balanced(answer.rstrip(_FINAL))) or None


def _statement(text: str, start: int) -> str:
    """The sentence or line that begins at `start`; math at its beginning is skipped as a whole."""
    position = start
    for opening, closing in _MATH:
        if text.startswith(opening, start):
            end = text.find(closing, start + len(opening))
            if end >= 0 and (opening != "$" or _is_inline_math(text, start, end)):
                position = end + len(closing)
            break
    if text.endswith((".$", ".\\)"), start, position):
        return text[start:position]
    end_of_sentence = _END.search(text, position)
    return text[start : end_of_sentence.start() if end_of_sentence else len(text)]


def _is_inline_math(text: str, start: int, end: int) -> bool:
    """Whether two dollar signs are math and not amounts of money: those have a blank or a line's end between them."""
    between = text[start + 1 : end]
    return "\n" not in between and between.strip() == between != "" and not text[end + 1 : end + 2].isdigit()


def _balanced(answer: str) -> str:
    """A statement without the last brace or parenthesis when it was opened before the statement began."""
    if answer.endswith("}") and answer.count("}") > answer.count("{"):
        return answer[:-1]
    if answer.endswith(")") and answer.count(")") > answer.count("(") and "[" not in answer and "]" not in answer:
        return answer[:-1]
    return answer


def _bare(answer: str) -> str:
    """A statement without final punctuation, emphasis and math delimiters around the whole of it."""
    while True:
        shorter = answer.lstrip(_LOOSE).rstrip(_FINAL)
        for opening, closing in _MATH:
            inner = shorter[len(opening) : -len(closing)]
            if shorter.startswith(opening) and shorter.endswith(closing) and opening not in inner:
                shorter = inner
                break
        if shorter == answer:
            return answer
        answer = shorter
