r"""Typographic characters as LaTeX, and one name for each of their look-alikes. A pure table and a pure function."""

from __future__ import annotations

import re

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f", ""),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u00b7\u22c5\u2219\u2022", r"\cdot "),
        **dict.fromkeys("\u2044\u2215", "/"),
        **dict.fromkeys("\u27e8\u2329\u3008", r"\langle "),
        **dict.fromkeys("\u27e9\u232a\u3009", r"\rangle "),
        "\u00d7": r"\times ",
        "\u00f7": r"\div ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u2248": r"\approx ",
        "\u2261": r"\equiv ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2208": r"\in ",
        "\u2205": r"\emptyset ",
        "\u00b1": r"\pm ",
        "\u2213": r"\mp ",
        "\u00b0": r"^\circ ",
        "\u2220": r"\angle ",
        "\u25b3": r"\triangle ",
        "\u211d": r"\mathbb{R}",
        "\u00bd": r"\frac{1}{2}",
        "\u2153": r"\frac{1}{3}",
        "\u2154": r"\frac{2}{3}",
        "\u00bc": r"\frac{1}{4}",
        "\u00be": r"\frac{3}{4}",
        "\u215b": r"\frac{1}{8}",
        "\u2026": r"\ldots ",
        "\u20ac": r"\euro ",
        "\u00a3": r"\sterling ",
        "\u00a5": r"\yen ",
        "\u00a2": r"\cent ",
    }
)
_RAISED = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f", "0123456789+-n"
)
_LOWERED = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789")
_RAISED_RUN = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b\u207f]+")
_LOWERED_RUN = re.compile("[\u2080-\u2089]+")
_ROOT = re.compile("\u221a *(?:([0-9.]+|[A-Za-z])|(?=[({]))")


def plain_characters(text: str) -> str:
    r"""The text with minus signs, spaces, roots, raised digits and the like written as ASCII LaTeX.

    Letters of other scripts and everything unknown stay as they are.

    Example:
        >>> plain_characters("\u22122\u221a3"), plain_characters("x\u00b2 \u2264 \u00bd")
        ('-2\\sqrt{3}', 'x^{2} \\le  \\frac{1}{2}')
    """
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: "^{" + run.group().translate(_RAISED) + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + run.group().translate(_LOWERED) + "}", text)
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root.group(1)}}}" if root.group(1) else r"\sqrt", text)
    return text.translate(_CHARACTERS)
