"""Groups for `quorum bench vote`: completions of about 300 characters whose answers repeat as those of a model do."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quorum.types import Completion, Role, RolloutGroup
from voting.answers import mathematics
from voting.equivalence import MathVerify

HANGING_ANSWER = r"\operatorname{forever}(0)"
"""What `HangingMathVerify` never gets done with."""
_STEPS = (
    "We add the two terms and simplify what is left. ",
    "Since the first factor cannot vanish, we divide by it. ",
    "Substituting back, the expression on the left becomes a perfect square. ",
    "By symmetry it is enough to look at the case in which the smaller one comes first. ",
    "Counting the remaining cases one by one gives the number that we are after. ",
)
_TEXT_CHARACTERS = 280
_KINDS = {"integer": 55, "fraction": 15, "radical": 10, "polynomial": 8, "interval": 5, "tuple": 7}
"""Mathematical answers by kind, in percent: about what competition problems ask for."""


def make_groups(num_groups: int, k: int, seed: int, *, mathematical: bool) -> list[RolloutGroup]:
    """Groups of k completions each.

    In every group one answer is the most likely, between 20% and 95% of the time, and eight others share the rest,
    the first of them most (1/rank). A mathematical answer is written in one of several equivalent ways.

    Args:
        num_groups: P.
        k: completions per group.
        seed: of everything.
        mathematical: fractions, radicals, polynomials, intervals, tuples and integers; otherwise integers alone.
    """
    generator = random.Random(seed)
    return [_group(number, k, generator, mathematical) for number in range(num_groups)]


def with_hanging(groups: Sequence[RolloutGroup], share: float, seed: int) -> tuple[list[RolloutGroup], set[int]]:
    """The groups with a share of all answers replaced by one that hangs, each a text of its own, and whose they are."""
    generator = random.Random(seed)
    places = [(group.group_id, index) for group in groups for index in range(len(group.completions))]
    chosen = set(generator.sample(places, round(share * len(places))))
    changed = [
        make_group(
            group.group_id,
            [
                _text(f"{HANGING_ANSWER} + {group.group_id * 1000 + index}", generator)
                if (group.group_id, index) in chosen
                else completion.text
                for index, completion in enumerate(group.completions)
            ],
        )
        for group in groups
    ]
    return changed, {group_id for group_id, _ in chosen}


def make_group(group_id: int, texts: Sequence[str]) -> RolloutGroup:
    """A group whose completions have these texts, and no tokens: voting by 1 vote each reads none."""
    import numpy as np

    nothing, no_logprobs = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return RolloutGroup(
        group_id=group_id,
        prompt_id=f"{group_id:032x}",
        branch=0,
        role=Role.TRAIN,
        data_source="bench",
        prompt_token_ids=nothing,
        prompt_text="",
        completions=tuple(
            Completion(
                index=index,
                token_ids=nothing,
                text=text,
                rollout_logprobs=no_logprobs,
                finish_reason="stop",
                spans=(),
            )
            for index, text in enumerate(texts)
        ),
    )


def _group(number: int, k: int, generator: random.Random, mathematical: bool) -> RolloutGroup:
    answers = [_writings(generator) if mathematical else [str(generator.randint(0, 999))] for _ in range(9)]
    likely = generator.uniform(0.2, 0.95)
    weights = [likely, *((1 - likely) / rank / 2.718 for rank in range(1, 9))]
    texts = []
    for _ in range(k):
        writings = generator.choices(answers, weights)[0]
        written = writings[0] if generator.random() < 0.7 else generator.choice(writings)
        texts.append(_text(written, generator))
    return make_group(number, texts)


def _text(answer: str, generator: random.Random) -> str:
    text = ""
    while len(text) < _TEXT_CHARACTERS - len(answer):
        text += generator.choice(_STEPS)
    return text + rf"The answer is \boxed{{{answer}}}."


def _writings(generator: random.Random) -> list[str]:
    """One answer in several ways that a grader takes for the same."""
    a, b = generator.randint(1, 60), generator.choice([2, 3, 4, 5, 7, 8, 9, 11])
    [kind] = generator.choices(list(_KINDS), list(_KINDS.values()))
    return {
        "integer": [str(a * 37), f"{a * 37}.0", f"{a * 37}."],
        "fraction": [rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a}}}{{{b}}}", f"{a}/{b}"],
        "radical": [rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{b}}} \cdot {a}"],
        "polynomial": [f"x^2 + {a}x + {b}", f"{b} + {a}x + x^2"],
        "interval": [f"[{a}, {a + b})", rf"\left[{a}, {a + b}\right)"],
        "tuple": [f"({a}, {b})", f"({a},{b})"],
    }[kind]


class HangingMathVerify(MathVerify):
    """math-verify, but for answers that never end."""

    preload = (*MathVerify.preload, "benchmarks.vote_groups")
    check = "benchmarks.vote_groups:check"


def check(answer: str, strict: bool, float_rounding: int, numeric_precision: int) -> bool:
    """As `voting.answers.mathematics.check`; never returns for an answer that is to hang."""
    while HANGING_ANSWER in answer:
        pass
    return mathematics.check(answer, strict, float_rounding, numeric_precision)
