"""Miniature tasks: digits in, a few steps of reasoning, an answer in a box, and a way to get it wrong.

Every task is written in the demo's characters, so that one tokenizer serves all. Errors are slips in a step, and are
carried on. Their kind decides whether a majority of completions corrects them: symmetric ones cancel; those that always
point the same way add up, until on the longer problems the majority is wrong.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HELD_OUT_SHARE = 8
"""One prompt in so many is held out; which ones, its own text decides."""

Digits = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of problem about a row of digits."""

    summary: str
    """One line, for the command's help."""
    lengths: tuple[int, ...]
    """How many digits a problem has, by difficulty level."""
    noise: tuple[float, ...]
    """Probability of a slip per step in the base model's traces, by difficulty level."""
    draw: Callable[[random.Random, int], Digits]
    """(random numbers, number of digits) -> a problem."""
    render: Callable[[Digits], str]
    """Problem -> prompt."""
    steps: Callable[[Digits, random.Random, float], Sequence[str]]
    """(problem, random numbers, noise) -> the trace's steps, the last of which is the answer."""

    def trace(self, digits: Digits, rng: random.Random, noise: float) -> str:
        """Steps of one attempt, the answer in a box; without noise it is right."""
        *before, answer = self.steps(digits, rng, noise)
        return f"{''.join(before)}\\boxed{{{answer}}}"

    def answer(self, digits: Digits) -> str:
        """The right answer."""
        return self.steps(digits, random.Random(0), 0.0)[-1]


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the test set; a property of its text, the same for every task, seed and size."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_SHARE == 0


def uniform_digits(rng: random.Random, length: int) -> Digits:
    return tuple(rng.randint(0, 9) for _ in range(length))


def count_problem(rng: random.Random, length: int) -> Digits:
    """The digit to count, then the row; the number of hits is uniform in [1, length]."""
    wanted, num_hits = rng.randint(0, 9), rng.randint(1, length)
    row = [wanted] * num_hits + [(wanted + rng.randint(1, 9)) % 10 for _ in range(length - num_hits)]
    rng.shuffle(row)
    return wanted, *row


def count_steps(digits: Digits, rng: random.Random, noise: float) -> list[str]:
    """Running count; a hit is missed with probability `noise`, so counts are never too high."""
    wanted, *row = digits
    count, counts = 0, []
    for digit in row:
        count += digit == wanted and rng.random() >= noise
        counts.append(str(count))
    return counts


def maximum_steps(digits: Digits, rng: random.Random, noise: float) -> list[str]:
    """Running maximum; a larger digit is overlooked with probability `noise`."""
    best, steps = digits[0], []
    for digit in digits[1:]:
        if digit > best and rng.random() >= noise:
            best = digit
        steps.append(str(best))
    return steps


MOVES = {"+": 1, "-": -1, "=": 0}


def walk_problem(rng: random.Random, length: int) -> Digits:
    """Where one starts, then the moves, as indices into MOVES."""
    return rng.randint(0, 9), *(rng.randrange(len(MOVES)) for _ in range(length))


def walk_prompt(digits: Digits) -> str:
    signs = tuple(MOVES)
    return f"Walk {digits[0]}: {''.join(signs[index] for index in digits[1:])}."


def walk_steps(digits: Digits, rng: random.Random, noise: float) -> list[str]:
    """Places on a ring of ten; with probability `noise` a move goes one too far up, or one too far down."""
    place, *moves = digits
    steps = []
    for index in moves:
        slip = rng.choice((-1, 1)) if rng.random() < noise else 0
        place = (place + tuple(MOVES.values())[index] + slip) % 10
        steps.append(str(place))
    return steps


def slipped(digits: Sequence[int], rng: random.Random, noise: float) -> str:
    """The digits as written by someone who, with probability `noise` each, takes a digit's neighbour instead."""
    written = list(digits)
    for index in range(len(written) - 1):
        if rng.random() < noise:
            written[index], written[index + 1] = written[index + 1], written[index]
    return "".join(map(str, written))


def reverse_steps(digits: Digits, rng: random.Random, noise: float) -> list[str]:
    return [slipped(digits[::-1], rng, noise)]


def sort_steps(digits: Digits, rng: random.Random, noise: float) -> list[str]:
    return [slipped(sorted(digits), rng, noise)]


def _row(digits: Sequence[int]) -> str:
    return "".join(map(str, digits))


TASKS = {
    "count": Task(
        summary="count a digit's occurrences; hits are missed, so the longer the row the wronger the majority",
        lengths=(6, 8),
        noise=(0.3, 0.3),
        draw=count_problem,
        render=lambda digits: f"Count {digits[0]}: {_row(digits[1:])}.",
        steps=count_steps,
    ),
    "maximum": Task(
        summary="largest digit of a row; larger ones are overlooked",
        lengths=(5, 8),
        noise=(0.35, 0.35),
        draw=uniform_digits,
        render=lambda digits: f"Max: {_row(digits)}.",
        steps=maximum_steps,
    ),
    "walk": Task(
        summary="step up and down on a ring of ten; moves go one too far, up or down alike",
        lengths=(6, 8),
        noise=(0.08, 0.08),
        draw=walk_problem,
        render=walk_prompt,
        steps=walk_steps,
    ),
    "reverse": Task(
        summary="write a row of digits backwards; neighbours are swapped",
        lengths=(5, 7),
        noise=(0.12, 0.12),
        draw=uniform_digits,
        render=lambda digits: f"Reverse: {_row(digits)}.",
        steps=reverse_steps,
    ),
    "sort": Task(
        summary="write a row of digits in order; neighbours are swapped",
        lengths=(5, 7),
        noise=(0.15, 0.15),
        draw=uniform_digits,
        render=lambda digits: f"Sort: {_row(digits)}.",
        steps=sort_steps,
    ),
}
