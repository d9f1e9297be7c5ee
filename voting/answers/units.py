r"""Units at the end of an answer (or a currency before it): which words they are, and when two of them contradict.

Two known units that differ make two answers differ, and so do other words after a number that have none in common
("12 apples" and "12 oranges", not "6 ways" and "6 different ways"). A missing unit contradicts nothing. Units are not
converted: 90 minutes and 1.5 hours stay two answers, since either may stand in a group beside the bare number.
"""

from __future__ import annotations

import re

from voting.answers.exact_numbers import read_number

UNKNOWN = "?"
"""Begins the name of what is no known unit and counts or describes: "? apple"."""

_NAMES = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "dm": "dm decimeter decimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "gal": "gal gallon",
    "ms": "ms millisecond",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week wk",
    "month": "month",
    "year": "year yr",
    "mg": "mg milligram",
    "g": "g gram",
    "kg": "kg kilogram",
    "lb": "lb pound sterling",
    "oz": "oz ounce",
    "N": "newton",
    "J": "joule",
    "kJ": "kj kilojoule",
    "cal": "cal calorie",
    "kcal": "kcal kilocalorie",
    "eV": "ev electronvolt",
    "W": "watt",
    "kW": "kw kilowatt",
    "V": "volt",
    "A": "amp ampere",
    "Hz": "hz hertz",
    "Pa": "pa pascal",
    "kPa": "kpa kilopascal",
    "atm": "atm atmosphere",
    "mol": "mol mole",
    "K": "kelvin",
    "degree": "degree deg",
    "rad": "rad radian",
    "celsius": "celsius",
    "fahrenheit": "fahrenheit",
    "dollar": "dollar usd",
    "euro": "euro eur",
    "yen": "yen jpy",
    "cent": "cent",
    "rupee": "rupee rs inr",
    "am": "am",
    "pm": "pm",
}
_KNOWN = {name + plural: unit for unit, names in _NAMES.items() for name in names.split() for plural in ("", "s")}
_KNOWN |= {"hz": "Hz", "ms": "ms", "rs": "rupee"}
_SINGLE = {"m": "m", "s": "s", "h": "h", "g": "g", "l": "l", "L": "l", "N": "N", "J": "J", "W": "W", "V": "V", "K": "K"}
"""Units of one letter; the case counts."""
_CURRENCIES = {"$": "dollar", "euro": "euro", "sterling": "lb", "yen": "yen", "cent": "cent"}
_CURRENCY = re.compile(r"([-+]?)\s*\\(\$|euro|sterling|yen)(?![A-Za-z])\s*([-+]?)\s*(?=[0-9.\\])")
_CURRENCY_AFTER = re.compile(r"\s*\\(\$|euro|sterling|yen|cent)$")
_DEGREE = re.compile(r"\s*\^\s*\\circ\s*(?:(?:\\text\{)?([CF])\}?)?$")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_TEXT = re.compile(r"\\text\{")
_TEXT_TAIL = re.compile(r"(?:\\text\{(?:[^{}]|\{[^{}]*\})*\}|\^\s*(?:\{\s*[-+]?[0-9]\s*\}|[0-9])|[\s/().*]|\\cdot)+")
_WORD = r"[A-Za-z][A-Za-z.]*(?:\^\s*(?:\{[0-9]\}|[0-9]))?"
_WORD_TAIL = re.compile(rf"([0-9)}}]|\\pi)(\s*)({_WORD}(?:[\s/]+{_WORD})*)\s*$")
_TOKEN = re.compile(r"[A-Za-z]+|[-+]?[0-9]+|/")
_LETTERS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]+")
_OPERATOR_END = re.compile(r"(?:[-+*/^_=<>(,:&|]|\\(?:times|cdot|div|le|ge|ne|in|pm|equiv|approx))\s*$")
_CONJUNCTIONS = frozenset(
    "and or to mod if when for where with choose is are more less through than thousand million billion".split()
)
_MULTIPLIER = re.compile(r"\s*(?:\\text\{\s*)?(thousand|million|billion|trillion)(?![A-Za-z])\s*(\}?)", re.IGNORECASE)
_POWER_OF_TEN = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PHRASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![a-z])mph(?![a-z])"), "mi/h"),
    (re.compile(r"(?<![a-z])km?ph(?![a-z])"), "km/h"),
    (re.compile(r"(?<![a-z])per(?![a-z])"), "/"),
    (re.compile(r"(?<![a-z])(?:square|sq)\s+([a-z]+)"), r"\1 2"),
    (re.compile(r"(?<![a-z])(?:cubic|cu)\s+([a-z]+)"), r"\1 3"),
    (re.compile(r"\s+squared"), " 2"),
    (re.compile(r"\s+cubed"), " 3"),
)


def split_unit(text: str) -> tuple[str, str]:
    r"""A respelled answer without its unit, and the unit.

    Args:
        text: one value; lists are split before.

    Returns:
        (value, unit): the unit is "" when there is none, UNKNOWN and the words where they are no known unit, and
        otherwise one name for all its spellings, e.g. "cm^2". A value is never empty.

    Example:
        >>> split_unit(r"25 \text{cm}^2"), split_unit("60 miles per hour"), split_unit(r"\$5"), split_unit("6 ways")
        (('25', 'cm^2'), ('60', 'h^-1 mi'), ('5', 'dollar'), ('6', '? way'))
        >>> split_unit("2t"), split_unit("x + 2m"), split_unit(r"90^\circ")
        (('2t', ''), ('x + 2m', ''), ('90', 'degree'))
    """
    text = _multiplied(text)
    prefix = _CURRENCY.match(text)
    if prefix:
        value = prefix.group(1) + prefix.group(3) + text[prefix.end() :]
        return split_unit(value)[0], _CURRENCIES[prefix.group(2)]
    if suffix := _CURRENCY_AFTER.search(text):
        return (text[: suffix.start()], _CURRENCIES[suffix.group(1)]) if suffix.start() else (text, "")
    if (degree := _DEGREE.search(text)) and degree.start() and not _TRIGONOMETRY.search(text):
        scale = {"C": "celsius", "F": "fahrenheit", None: "degree"}[degree.group(1)]
        return text[: degree.start()], scale
    return _split_text(text) or _split_words(text) or (text, "")


def units_contradict(first: str, second: str) -> bool:
    """Whether two units are known and differ, or two others have no word in common.

    Example:
        >>> units_contradict("cm", "m"), units_contradict("cm", ""), units_contradict("cm", "? unit")
        (True, False, False)
        >>> units_contradict("? apple", "? orange"), units_contradict("? way", "? different way")
        (True, False)
    """
    if first == second or not first or not second or first[0] != second[0] and UNKNOWN in (first[0], second[0]):
        return False
    return first[0] != UNKNOWN or set(first.split()) & set(second.split()) == {UNKNOWN}


def _multiplied(text: str) -> str:
    """With "million" and its kin after a number written as a power of ten."""
    match = _MULTIPLIER.search(text)
    if match is None or read_number(text[: match.start()].lstrip("\\$ ")) is None:
        return text
    rest = text[match.end() :]
    rest = rest if match.group(2) or "\\text" not in match.group() else r"\text{" + rest
    return rf"{text[: match.start()]} \cdot 10^{{{_POWER_OF_TEN[match.group(1).lower()]}}} {rest}".strip()


def _split_text(text: str) -> tuple[str, str] | None:
    r"""Value and unit where the unit stands in \text{}."""
    for start in list(_TEXT.finditer(text))[:8]:
        value, tail = text[: start.start()].rstrip(), text[start.start() :]
        if not value or _OPERATOR_END.search(value) or not _TEXT_TAIL.fullmatch(tail):
            continue
        unit = _unit_of(re.sub(r"\\text|[{}]|\\cdot", " ", tail))
        has_digit = any(letter.isdigit() for letter in value) or "\\" in value
        return (value, unit) if unit and (unit[0] != UNKNOWN or has_digit) else None
    return None


def _split_words(text: str) -> tuple[str, str] | None:
    """Value and unit where the unit is bare words: any after a number, known ones after what has no letters."""
    match = _WORD_TAIL.search(text)
    if match is None:
        return None
    value, phrase = text[: match.end(1)], match.group(3).strip()
    unit = _unit_of(phrase)
    if not unit or _LETTERS.search(value):
        return None
    is_number = read_number(value) is not None
    if unit[0] == UNKNOWN:
        first = phrase.split()[0].strip(".")
        return (value, unit) if is_number and match.group(2) and len(first) >= 3 else None
    is_short = len(phrase) < 2
    return (value, unit) if (match.group(2) and (is_number or not is_short)) or (is_number and not is_short) else None


def _unit_of(phrase: str) -> str:
    """One name for a unit, UNKNOWN for other words, "" for what cannot be one."""
    words = phrase.strip().replace(".", "")
    if words in _SINGLE:
        return _SINGLE[words]
    lowered = words.lower()
    for pattern, replacement in _PHRASES:
        lowered = pattern.sub(replacement, lowered)
    powers: dict[str, int] = {}
    sign, last = 1, ""
    is_known = True
    for token in _TOKEN.findall(lowered):
        if token in _CONJUNCTIONS:
            return ""
        if token == "/":
            sign = -1
        elif token[0].isalpha():
            last = _KNOWN.get(token, "")
            is_known &= bool(last)
            powers[last] = powers.get(last, 0) + sign
        elif last:
            powers[last] += sign * int(token) - sign
    if not is_known or not powers:
        nouns = [word.removesuffix("s") for word in re.findall("[a-z]+", words.lower())]
        return " ".join([UNKNOWN, *nouns]) if len(words) > 1 and nouns else ""
    return " ".join(f"{unit}^{power}" if power != 1 else unit for unit, power in sorted(powers.items()))
