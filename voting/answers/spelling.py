r"""One spelling for answers that differ only in how they are written down: layout, typographic characters, synonyms.

Pure functions from text to text, each linear in it. They know notation (that \, is a space and 1{,}000 is 1000), not
values: nothing is evaluated here, and no answer is taken apart.
"""

from __future__ import annotations

import re

from voting.answers.characters import plain_characters

_END = r"(?![A-Za-z])"
_LAYOUT: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[0-9])(?:\{,\}|,\\!|\\[,!;:])\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<=[0-9])\{,\}(?=[0-9])", "."),
        (r"\\!", ""),
        (r"(?<!\\)\\(?:[,;:> ]|(?:q?quad|enspace|thinspace)" + _END + r")|(?<!\\)~|\\hspace\{[^{}]*\}", " "),
        (r"\\(?:left|right|middle)" + _END + r"\s*\.?", ""),
        (r"\\(?:[bB]igg?[lrm]?|(?:display|text|script)style|limits|nolimits|large|Large|huge|Huge|small)" + _END, ""),
        (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:boxed|fbox|underline|mathstrut|boldmath|rm|bf|it)" + _END, ""),
        (r"(\\[A-Za-z]+)\s+\{", r"\1{"),
        (r"\}\s+\{", "}{"),
        (r"\{([^{}]*)\\over" + _END + r"([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\{([^{}]*)\\choose" + _END + r"([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\\[dt]binom" + _END, r"\\binom"),
        (r"^(?:\{\})?[_^]\{?([0-9n]+)\}?C_\{?([0-9kr]+)\}?$", r"\\binom{\1}{\2}"),
        (r"\\log_(?:e|\{e\})" + _END, r"\\ln"),
        (r"\{:\}", ":"),
        (r"\\[dtc]frac" + _END, r"\\frac"),
        (r"\\frac\s*([0-9A-Za-z])\s*([0-9A-Za-z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9A-Za-z])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\\(?:geqslant|geq)" + _END + r"|>=", r"\\ge "),
        (r"\\(?:leqslant|leq)" + _END + r"|<=", r"\\le "),
        (r"\\neq" + _END + r"|!=", r"\\ne "),
        (r"\\lt" + _END, "<"),
        (r"\\gt" + _END, ">"),
        (r"\\[lr]vert" + _END, "|"),
        (r"\\(?:varnothing)" + _END + r"|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\lbrace" + _END, r"\\{"),
        (r"\\rbrace" + _END, r"\\}"),
        (r"\\varepsilon" + _END, r"\\epsilon"),
        (r"\\varphi" + _END, r"\\phi"),
        (r"\\(?:therefore|because|checkmark|blacksquare|square|qed)" + _END, ""),
        (r"\\degree" + _END, r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"(?<![A-Za-z\\])US\\?\$|\\textdollar" + _END, r"\\$"),
        (r"(?<=[0-9)}])\s*\*\*\s*(?=[0-9({A-Za-z-])|(?<=[A-Za-z])\*\*(?=[0-9({])", "^"),
        (r"\^\s*(?:\{\\prime\}|\\prime" + _END + ")", "'"),
        (r"(?<![A-Za-z])([A-Za-z])'+(?![A-Za-z])", r"\1_{prime}"),
    )
)
_FONT = re.compile(
    r"\\(text(?:bf|it|rm|sf|tt|normal|sc)?|math(?:rm|bf|it|sf|tt)|boldsymbol|bm|mbox|emph|operatorname|hat)"
    r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_SYMBOL_FONTS = frozenset({"mathbf", "mathit", "mathsf", "boldsymbol", "bm"})
_UNIT_VECTOR = re.compile(r"\\?[ijk](?:math)?")
_RELATION = re.compile(r"[=<>+^_]")
_LETTER = re.compile(r"[A-Za-z]")
_WORDS_FOR_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\s*(?:\\text\{\s*(?:\\?%|percent(?:age)?|pct)\s*\}|(?<![A-Za-z])percent" + _END + r"|(?<!\\)%)", r"\\%"),
        (r"\\text\{\s*(?:positive )?infinity\s*\}|(?<![A-Za-z\\])infinity" + _END, r"\\infty "),
        (r"(?:\\text\{\s*(?:negative|minus)\s*\}|^(?:negative|minus)) *(?=[0-9.\\])", "-"),
        (r"\(\s*(?:\\text\{\s*mod\s*\}|mod" + _END + r")\s*([^()]*)\)", r"\\pmod{\1}"),
        (r"_\s*\{\s*\\text\{\s*two\s*\}\s*\}", "_{2}"),
        (r"_\s*\{\s*\\text\{\s*(?:eight)\s*\}\s*\}", "_{8}"),
        (r"_\s*\{\s*\\text\{\s*(?:sixteen)\s*\}\s*\}", "_{16}"),
    )
)
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt)"
    r"(?=\s*[(^_\\{]|\s+[A-Za-z0-9](?![A-Za-z]))"
)
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.,/}])([1-9][0-9]{0,2}(?: [0-9]{3})+)(?![0-9/])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])")
_COMMA = re.compile(r",(?!\s)")
_ROOT_OF_PARENTHESES = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_SINGLE_IN_BRACES = re.compile(r"(?<![\w\\}\])^])\{\s*([A-Za-z0-9.]+)\s*\}")
_AFTER_DIGIT_IN_BRACES = re.compile(r"(?<=[0-9+\-*])\{([A-Za-z])\}")
_PREFIX = re.compile(
    r"(?:about|approximately|roughly)\s+(?=[-0-9\\$])|"
    r"(?:the |my )?(?:final )?answer(?: is)?\s*[:=]?\s+|\\text\{[^{}]*answer[^{}]*\}\s*|=\s*",
    re.IGNORECASE,
)
_APPROXIMATELY = re.compile(r"\s*\\approx\s*")
_SPACE = re.compile(r"\s+")
_BARE_DOLLAR = re.compile(r"(?<!\\)\$")
_PRICE = re.compile(r"[-+]?\s*\$\s*[-+]?[0-9.]")
_CLOSES_A_NUMBER = frozenset("0123456789})")
_ANY_BRACKET = re.compile(r"[(\[]|\\\{|\\langle")


def respell(answer: str) -> str:
    r"""The same answer in the plainest LaTeX: no layout commands, no typographic characters, one name per sign.

    Example:
        >>> respell("\\left( \\dfrac12,\\, 1{,}000 \\right)"), respell("\u22122\u221a3"), respell("x >= 7\u00b2")
        ('( \\frac{1}{2}, 1000 )', '-2\\sqrt{3}', 'x \\ge 7^{2}')
    """
    text = _SPACE.sub(" ", plain_characters(answer)).strip()
    if "**" in text or "`" in text:
        text = _without_stars(text)
    for pattern, replacement in _LAYOUT if "\\" in text or not text.isalnum() else ():
        text = pattern.sub(replacement, text)
    text = _dollars(_FONT.sub(_font, text))
    for pattern, replacement in _WORDS_FOR_SIGNS:
        text = pattern.sub(replacement, text)
    text = _PI.sub(r"\\pi ", _FUNCTION.sub(r"\\\1", text))
    text = _ROOT_OF_PARENTHESES.sub(r"\\sqrt{\1}", text)
    text = _AFTER_DIGIT_IN_BRACES.sub(r"\1", _SINGLE_IN_BRACES.sub(r"\1", text))
    text = _thousands(_SPACE.sub(" ", text).strip())
    return trimmed(_PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text)


def trimmed(text: str) -> str:
    r"""Without outer whitespace, outer braces, final punctuation, a final line break and a leading sign of equality.

    Example:
        >>> trimmed(r"{\frac{1}{2}}. "), trimmed("12\\\\"), trimmed(r"\approx 3")
        ('\\frac{1}{2}', '12', '3')
    """
    while True:
        shorter = text.strip()
        if shorter.endswith((",", ";", "\\\\")) or (shorter.endswith(".") and not shorter.endswith("..")):
            shorter = shorter[:-2] if shorter.endswith("\\\\") else shorter[:-1]
        elif shorter.endswith("\\") and not shorter.endswith("\\\\"):
            shorter = shorter[:-1]
        elif shorter.startswith("{") and shorter.endswith("}") and _is_one_group(shorter):
            shorter = shorter[1:-1]
        elif match := _APPROXIMATELY.match(shorter):
            shorter = shorter[match.end() :]
        if shorter == text:
            return text
        text = shorter


def _is_one_group(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end() == len(text)
    return False


def _without_stars(text: str) -> str:
    """Without the stars of bold Markdown, or the ticks of code, around the whole text."""
    if text.startswith("`") and text.endswith("`") and len(text) > 2:
        return text.strip("` ")
    inner = text[2:-2]
    return inner.strip() if text.startswith("**") and text.endswith("**") and "**" not in inner else text


def _dollars(text: str) -> str:
    """A dollar before a number is a currency; the other unescaped dollars delimit mathematics and go."""
    if "$" not in text:
        return text
    bare = _BARE_DOLLAR.sub("", text)
    is_price = len(text) - len(bare) == 1 and _PRICE.match(text)
    return _BARE_DOLLAR.sub(r"\\$", text) if is_price else bare


def _font(match: re.Match[str]) -> str:
    r"""Content of a font command: bare when it is a symbol or has no letters, else in \text{}."""
    font, content = match.group(1), match.group(2).strip()
    if font in ("operatorname", "hat"):
        return content.strip("\\")[0] if _UNIT_VECTOR.fullmatch(content) else match.group()
    if not _LETTER.search(content) or (font in _SYMBOL_FONTS and _RELATION.search(content)):
        return content
    if len(content) > 1:
        return rf"\text{{{content}}}"
    before = match.string[: match.start()].rstrip()[-1:]
    return rf"\text{{{content}}}" if font not in _SYMBOL_FONTS and before in _CLOSES_A_NUMBER else content


def _thousands(text: str) -> str:
    """Without separators of thousands: 1,000 is a number, (100,200) a pair, (1,000, 2) a pair again."""
    if "," in text:
        rest = _THOUSANDS.sub("", text)
        if rest != text:
            is_spaced = not _COMMA.search(rest)
            bracket = _ANY_BRACKET.search(text)
            first = bracket.start() if bracket else len(text)
            text = _THOUSANDS.sub(
                lambda m: (
                    m.group().replace(",", "")
                    if is_spaced and (m.start() < first or "," in rest or ",0" in m.group())
                    else m.group()
                ),
                text,
            )
    return _SPACED_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
