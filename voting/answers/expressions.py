r"""What the parser misreads in an expression, rewritten: the imaginary unit, degrees, chains of inequalities, fonts."""

from __future__ import annotations

import re

from voting.answers.tokens import RELATIONS, top_level

_TEXT_LETTER = re.compile(r"\\(?:text|mathrm)\{\s*([A-Za-z])\s*\}")
_LETTERS = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z]+")
_INDEX = re.compile(r"\\(?:sum|prod|lim|int)(?![A-Za-z])|_\s*\{?\s*i(?![A-Za-z])|\\(?:vec|hat)\b")
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*\\circ(?![A-Za-z])")
_DEGREE = re.compile(r"\^\s*\\circ(?![A-Za-z])")
_TURNED = {">": "<", r"\ge": r"\le"}


def expression_latex(text: str) -> str:
    r"""LaTeX of a respelled answer as the parser understands it.

    Example:
        >>> expression_latex("a+bi"), expression_latex(r"\sin 30^\circ"), expression_latex("2 > x > 1")
        ('a+bI', '\\sin \\frac{30\\pi}{180}', '1 < x < 2')
    """
    text = _TEXT_LETTER.sub(r"\1", text)
    if "circ" in text:
        text = _DEGREE.sub("", _DEGREES.sub(r"\\frac{\1\\pi}{180}", text))
    if "i" in text and not _INDEX.search(text):
        text = _LETTERS.sub(_imaginary, text)
    return _turned(text) if ">" in text or r"\ge" in text else text


def _imaginary(match: re.Match[str]) -> str:
    letters = match.group()
    if letters[0] == "\\" or len(letters) > 3:
        return letters
    is_raised = letters[-1] == "i" and match.string[match.end() :].lstrip().startswith("^")
    return letters[:-1].replace("i", "I") + "(I)" if is_raised else letters.replace("i", "I")


def _turned(text: str) -> str:
    """With a chain of > read from its right end, as a chain of <."""
    relations = [found for found in top_level(text) if found[0] in RELATIONS or found[0] in (",", ";", "or", "and")]
    if not relations or any(token not in _TURNED for token, _, _ in relations):
        return text
    parts, start = [], 0
    for _, begin, end in relations:
        parts.append(text[start:begin].strip())
        start = end
    parts.append(text[start:].strip())
    turned = parts[-1]
    for part, (token, _, _) in zip(reversed(parts[:-1]), reversed(relations), strict=True):
        turned += f" {_TURNED[token]} {part}"
    return turned
