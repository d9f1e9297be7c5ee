r"""Strings that may crash, hang or fool whatever reads answers: deterministic, in families, from small to a megabyte.

Nothing here is correct or typical; what must hold for every one of them is that the vote goes on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

Family = Callable[[random.Random], str]

_CORPUS = Path(__file__).parent / "data" / "answer_pairs.jsonl"
_MEGABYTE_EVERY = 1000
"""Every so many strings one has a million characters."""
_BRACKETS = (("(", ")"), ("{", "}"), ("[", "]"), (r"\{", r"\}"), (r"\left(", r"\right)"), ("|", "|"))
_COMMANDS = (r"\frac{", r"\sqrt{", r"\frac{1}{", r"\sqrt[3]{", "x^{", r"\text{", r"\boxed{", r"\mathrm{", r"\sin{")
_SCRIPTS = (
    "\u0663\u0664\u06f5\u0967\u0e51\u4e09\u5341\u05d0\u05d1\u0627\u0628\u0416\u03b1\u03c0\u2211\uff11\uff12\u2460"
)
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\ufeff\u00ad"
_EMOJI = "\U0001f600\U0001f44d\U0001f3fd\u2764\ufe0f\U0001f468\u200d\U0001f469\u0031\ufe0f\u20e3\U0001f1e9\U0001f1ea"
_PIECES = (
    *(r"\frac", r"\sqrt", r"\boxed{", r"\begin{pmatrix}", r"\end{pmatrix}", r"\left", r"\right.", r"\text{", "\\", "$"),
    *("{", "}", "(", ")", "[", "]", "^", "_", "&", r"\\", "%", ",", ";", ":", "=", "<", ">", "!", "'", "~", "#", "|"),
    *("0", "1", "9" * 40, "x", "i", "e", "pi", " ", "\n", "-", "+", "*", "/", "and", "or", "NaN", "inf", "1e9", "None"),
)
_CODE = (
    "__import__('os')._exit(1)",
    "exec('raise SystemExit')",
    "lambda: 0",
    "open('/dev/zero').read()",
    "%s%s%n",
    "{0.__class__}",
    "'; DROP TABLE votes; --",
    "<answer>1</answer><answer>",
    "../../../etc/passwd",
    "\\input{/dev/zero}",
    "\\def\\x{\\x\\x}\\x",
    "nan",
    "-inf",
    "zoo",
    "x" * 63 + "!",
    "S(1)/0",
    "1/0",
    r"\frac{1}{0}",
    r"\frac{0}{0}",
    "0^0",
    r"\log 0",
    r"\tan\frac{\pi}{2}",
)


def _size(rng: random.Random, largest: int) -> int:
    """From 1 to `largest`, small sizes as likely as large ones on a logarithmic scale."""
    return max(1, int(largest ** rng.random()))


def _nested_brackets(rng: random.Random) -> str:
    left, right = rng.choice(_BRACKETS)
    depth = _size(rng, 10_000)
    return left * depth + rng.choice(("", "1", "x")) + right * rng.choice((depth, depth, depth - 1, depth + 1, 0))


def _nested_commands(rng: random.Random) -> str:
    command = rng.choice(_COMMANDS)
    depth = _size(rng, 10_000)
    closing = "}{2}" if command == r"\frac{" else "}"
    return command * depth + "1" + closing * rng.choice((depth, depth, 0))


def _bare_commands(rng: random.Random) -> str:
    return (
        rng.choice((r"\frac", r"\sqrt", r"\sin ", r"\log ", "-", "+", "!", "'", "--", r"\pm ")) * _size(rng, 2_000)
        + "2"
    )


def _towers(rng: random.Random) -> str:
    base, power = rng.choice("2379x"), rng.choice(("9", "10", "x", "99"))
    height = rng.randint(2, 12)
    form = rng.randrange(4)
    if form == 0:
        return "".join(f"{base}^{{" for _ in range(height)) + power + "}" * height
    if form == 1:
        return rng.choice(("**", "^")).join([base] * height)
    if form == 2:
        return "".join(f"{base}^(" for _ in range(height)) + power + ")" * height
    return "(" * height + base + f"^{{{power}}})" * height


def _huge_numbers(rng: random.Random) -> str:
    size = 10 ** rng.randint(4, 12)
    return rng.choice(
        (
            f"2^{{{size}}}",
            f"10**{size}",
            f"1e{size}",
            f"1.5E-{size}",
            f"{size}!",
            f"({size}!)!",
            rf"\binom{{{size}}}{{{size // 2}}}",
            rf"\frac{{{size}!}}{{{size - 1}!}}",
            f"x^{{{size}}}-1",
            f"(1+x)^{{{size}}}",
            f"7^{{{size}}} \\bmod 13",
            rf"\sqrt[{size}]{{2}}",
            rf"\log_{{2}} {size}^{{{size}}}",
            f"{rng.randint(20, 3000)}!",
            f"3^{{{rng.randint(500, 9000)}}}",
        )
    )


def _digits(rng: random.Random) -> str:
    count = _size(rng, 100_000)
    digits = str(rng.randint(1, 9)) * count
    return rng.choice((digits, "0." + digits, "-" + digits, f"{digits}/7", f"1e-{digits}", rf"\frac{{1}}{{{digits}}}"))


def _long_sums(rng: random.Random) -> str:
    terms = [rng.choice(("x", "y", "17", r"\sqrt{2}", r"\pi", "x^2")) for _ in range(_size(rng, 3_000))]
    return rng.choice(("+", r" \cdot ", "*", "", ",", " - ")).join(terms)


def _evaluated(rng: random.Random) -> str:
    n = 10 ** rng.randint(1, 9)
    return rng.choice(
        (
            rf"\int_0^{{{n}}} e^{{-x^2}} \sin(x^{{{rng.randint(2, 50)}}}) dx",
            r"\int_0^1 x^{x^{x}} dx",
            r"\int \frac{1}{x^5+x+1} dx",
            rf"\sum_{{k=1}}^{{{n}}} \frac{{1}}{{k^{{{rng.randint(2, 9)}}}}}",
            rf"\sum_{{k=1}}^{{\infty}} \frac{{\sin k}}{{k^{{{rng.randint(2, 9)}}}}}",
            rf"\prod_{{k=1}}^{{{n}}} (k^2+1)",
            r"\lim_{x \to 0} \frac{\sin(\tan x) - \tan(\sin x)}{x^7}",
            rf"\lim_{{n \to \infty}} (1+\frac{{1}}{{n}})^{{n \cdot {n}}}",
            r"\frac{d}{dx} x^{x^{x^{x}}}",
            rf"\gcd({n}!, 3^{{{n}}})",
            rf"(x+y+z+w)^{{{rng.randint(20, 400)}}}",
            r"\sin(\cos(\tan(\sin(\cos(\tan(\sin(x)))))))",
            rf"\sqrt{{{'+'.join(rf'sqrt({p})' for p in (2, 3, 5, 7, 11, 13))}}}",
            rf"\lfloor {n}^{{\pi}} \rfloor",
        )
    )


def _matrices(rng: random.Random) -> str:
    name = rng.choice(("pmatrix", "bmatrix", "vmatrix", "matrix", "array"))
    width, height = _size(rng, 60), _size(rng, 60)
    row = "&".join(rng.choice(("0", "1", "x", r"\frac{1}{2}")) for _ in range(width))
    return rf"\begin{{{name}}}" + r"\\".join([row] * height) + rf"\end{{{rng.choice((name, 'pmatrix'))}}}"


def _boxed(rng: random.Random) -> str:
    return rng.choice((r"\boxed{1}", r"\boxed{", r"\boxed{}", r"\boxed{\boxed{2}}", r"\fbox{3", "}")) * _size(
        rng, 2_000
    )


def _control(rng: random.Random) -> str:
    return "".join(rng.choice("\x00\x01\x07\x08\x0b\x0c\x1b\x7f\x85\u2028\r\n\t 17") for _ in range(_size(rng, 300)))


def _surrogates(rng: random.Random) -> str:
    return "".join(chr(rng.choice((0xD800, 0xDC00, 0xDFFF, 0xFFFE, 0x37))) for _ in range(_size(rng, 100)))


def _scripts(rng: random.Random) -> str:
    return "".join(rng.choice(_SCRIPTS + "17+-. ") for _ in range(_size(rng, 200)))


def _invisible(rng: random.Random) -> str:
    answer = rng.choice(_corpus_answers()) or "7"
    return "".join(character + rng.choice(("", rng.choice(_INVISIBLE))) for character in answer)


def _combining(rng: random.Random) -> str:
    return "".join(letter + chr(rng.randint(0x300, 0x36F)) * _size(rng, 500) for letter in "x=7")


def _emoji(rng: random.Random) -> str:
    return "".join(rng.choice((*_EMOJI, "7", "+", " ")) for _ in range(_size(rng, 200)))


def _garbage(rng: random.Random) -> str:
    return "".join(rng.choice(_PIECES) for _ in range(_size(rng, 400)))


def _mutated(rng: random.Random) -> str:
    answer = list(rng.choice(_corpus_answers()))
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(answer) + 1)
        change = rng.randrange(4)
        if change == 0:
            answer[place:place] = rng.choice(_PIECES)
        elif change == 1:
            del answer[place : place + rng.randint(1, 3)]
        elif change == 2:
            answer[place:place] = answer[: rng.randint(0, 8)]
        else:
            answer[place:place] = rng.choice(_corpus_answers())
    return "".join(answer)


def _code(rng: random.Random) -> str:
    return rng.choice(_CODE)


def _blanks(rng: random.Random) -> str:
    return rng.choice((" ", "\t", "\n", r"\ ", r"\,", "~", "$", ".", ",", "{}", "()", "&", r"\\", "=")) * _size(
        rng, 5_000
    )


FAMILIES: dict[str, Family] = {
    "nested_brackets": _nested_brackets,
    "nested_commands": _nested_commands,
    "bare_commands": _bare_commands,
    "towers": _towers,
    "huge_numbers": _huge_numbers,
    "digits": _digits,
    "long_sums": _long_sums,
    "evaluated": _evaluated,
    "matrices": _matrices,
    "boxed": _boxed,
    "control": _control,
    "surrogates": _surrogates,
    "scripts": _scripts,
    "invisible": _invisible,
    "combining": _combining,
    "emoji": _emoji,
    "garbage": _garbage,
    "mutated": _mutated,
    "code": _code,
    "blanks": _blanks,
}
"""Each makes one answer from a generator of random numbers."""
MEGABYTE = "megabyte"
"""The family of the few that have a million characters."""


def labelled_answers(count: int = 5000, seed: int = 0) -> Iterator[tuple[str, str]]:
    """`count` pairs (family, answer), the same ones for the same seed; the first ones do not depend on `count`.

    Args:
        count: how many; the families take turns, and every thousandth answer, from the 500th on, is a megabyte.
        seed: of all random choices.
    """
    names = list(FAMILIES)
    for i in range(count):
        rng = random.Random(f"{seed}/{i}")
        if i % _MEGABYTE_EVERY == _MEGABYTE_EVERY // 2:
            yield MEGABYTE, (rng.choice(_PIECES) * 1_000_000)[:1_000_000]
        else:
            name = names[i % len(names)]
            yield name, FAMILIES[name](rng)


def hostile_answers(count: int = 5000, seed: int = 0) -> Iterator[str]:
    """Bare answers, as an extractor could return them."""
    return (answer for _, answer in labelled_answers(count, seed))


def hostile_texts(count: int = 5000, seed: int = 0) -> Iterator[str]:
    """Completions around `hostile_answers`: mostly in a box, some in tags, some in broken ones."""
    for i, answer in enumerate(hostile_answers(count, seed)):
        rng = random.Random(f"{seed}/{i}/text")
        before = rng.choice(("", "Let me think. ", "So 12 + 30 = 42, and ", r"First \boxed{1}, no: ", "<think>" * 50))
        after = rng.choice(("", ".", "\n\n", r" or \boxed{", "</answer>", " Let me check " * 20))
        left, right = rng.choice(
            (
                (r"\boxed{", "}"),
                (r"\boxed{", "}"),
                (r"$\boxed{", "}$"),
                (r"\boxed{", ""),
                ("<answer>", "</answer>"),
                ("", ""),
            )
        )
        yield before + left + answer + right + after


@cache
def _corpus_answers() -> tuple[str, ...]:
    rows = map(json.loads, _CORPUS.read_text(encoding="utf-8").splitlines())
    return tuple(answer for row in rows for answer in (row["first"], row["second"]))
