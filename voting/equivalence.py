"""When two answers are the same: exact after normalisation, numeric, mathematical, or by a user's function.

An equivalence first maps every answer to a key; equal keys are one answer. Only one representative per key goes on to
`relate`, sorted, so that the order of completions cannot matter. `relate` is pure and yields what a worker must do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator

from configs.schema import Plugin
from quorum.registry import Entry, Options, Registry
from quorum.types import Outcome
from voting.answers.mathematics import is_comparable
from voting.answers.normal import normalize
from voting.answers.numeric import Number, numbers_equal, numeric_value
from voting.answers.reasoning_gym_scorers import check_task
from voting.asking import Steps
from voting.jobs import Ask, JobResult, JobStatus
from voting.plugins import choose

_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,14}")
"""Written in the one usual way: two that differ are different numbers, which needs no question."""


@dataclass(frozen=True, slots=True)
class Relation:
    """How m distinct answers relate."""

    outcomes: tuple[Outcome, ...]
    """[m] ANSWERED, or why the answer cannot be compared and abstains."""
    pairs: frozenset[tuple[int, int]]
    """(i, j) with i < j where the equivalence holds in at least one direction."""
    num_undecided: int = 0
    """Comparisons that failed or did not end; they count as unequal."""


class Equivalence(Protocol):
    """What the tally needs to know about sameness."""

    preload: tuple[str, ...]
    """"module" or "module:function" for the worker server to import or call before workers are forked."""
    is_by_key: bool
    """Whether equal keys alone are the same: `relate` relates none, so no later answer can join two others into one.
    Left out it is taken as False."""

    def key(self, answer: str) -> str | None:
        """Answers with equal keys are the same without further question; None abstains."""

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        """Compare m >= 1 distinct, sorted keys. Depends on the set of keys alone."""


class ExactOptions(Options):
    """Options of the exact equivalence."""

    ignore_case: bool = False
    """Whether "Paris" and "paris" are one answer."""


class Exact:
    """Two answers are the same when they are equal after `normalize`."""

    preload = ()
    is_by_key = True

    def __init__(self, options: ExactOptions) -> None:
        self._ignore_case = options.ignore_case

    def key(self, answer: str) -> str | None:
        return normalize(answer, ignore_case=self._ignore_case) or None

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        return _unrelated(keys)
        yield  # a generator that asks nothing


class Raw:
    """Two answers are the same when they are the same string, as in the official SRT code: an empty one votes too."""

    preload = ()
    is_by_key = True

    def __init__(self, options: Options) -> None:
        """Takes no options."""

    def key(self, answer: str) -> str | None:
        return answer

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        return _unrelated(keys)
        yield  # a generator that asks nothing


class NumericOptions(Options):
    """Options of the numeric equivalence."""

    relative_tolerance: Annotated[float, Field(ge=0)] = 1e-6
    """Numbers are equal that differ by at most this share of the larger one, or by the absolute tolerance."""
    absolute_tolerance: Annotated[float, Field(ge=0)] = 1e-9
    """For numbers near 0."""
    percent: Literal["share", "number"] = "share"
    """Whether 50% is 0.5, or 50."""


class Numeric:
    """Two answers are the same when they are numbers within a tolerance; what is no number equals only its own text."""

    preload = ()
    is_by_key = False

    def __init__(self, options: NumericOptions) -> None:
        self._options = options

    def key(self, answer: str) -> str | None:
        return normalize(answer) or None

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        numbers = [(i, value) for i, key in enumerate(keys) if (value := self._value(key)) is not None]
        pairs = frozenset((i, j) for (i, one), (j, other) in combinations(numbers, 2) if self._are_equal(one, other))
        return Relation((Outcome.ANSWERED,) * len(keys), pairs)
        yield  # a generator that asks nothing

    def _value(self, key: str) -> Number | None:
        return numeric_value(key, percent=self._options.percent)

    def _are_equal(self, one: Number, other: Number) -> bool:
        options = self._options
        return numbers_equal(
            one,
            other,
            relative_tolerance=options.relative_tolerance,
            absolute_tolerance=options.absolute_tolerance,
        )


class ReasoningGymOptions(Options):
    """Options of the equivalence by a reasoning-gym scorer."""

    task: str
    """Whose scorer; one of those that compare two answers fairly (FAIR_TASKS)."""

    @field_validator("task")
    @classmethod
    def _check_task(cls, value: str) -> str:
        problem = check_task(value)
        if problem:
            raise ValueError(problem)
        return value


class ReasoningGym:
    """Two answers are the same when each earns full score from a task's scorer with the other as the label."""

    preload = ("voting.answers.reasoning_gym_scorers:warm_up",)
    is_by_key = False

    def __init__(self, options: ReasoningGymOptions) -> None:
        self._task = options.task

    def key(self, answer: str) -> str | None:
        return answer.strip() or None

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        function = "voting.answers.reasoning_gym_scorers:same_by_scorer"
        return (yield from _related_by(function, keys, first=(self._task,)))


class MathVerifyOptions(Options):
    """Options of the mathematical equivalence; the names and defaults are math-verify's."""

    ignore_case: bool = False
    """Whether the exact match that comes first ignores case."""
    strict: bool = True
    """Whether variable names matter and sets differ from tuples."""
    float_rounding: Annotated[int, Field(ge=0)] = 6
    """Decimal places that two numbers must share."""
    numeric_precision: Annotated[int, Field(ge=1)] = 15
    """Digits that expressions are evaluated to."""
    max_answer_characters: Annotated[int, Field(ge=1)] = 1000
    """Longer answers equal only their own text."""


class MathVerify:
    """Two answers are the same when math-verify finds them equal in either direction.

    An answer that cannot be read or compared with a plain number in time has outcome TIMED_OUT and abstains; a
    comparison of two readable answers that does not end counts as unequal. What math-verify cannot read at all equals
    only its own text.
    """

    preload = ("voting.answers.mathematics:warm_up",)
    is_by_key = False
    check = "voting.answers.mathematics:check"
    """Whether an answer can be read at all."""

    def __init__(self, options: MathVerifyOptions) -> None:
        self._options = options
        self._settings = (options.strict, options.float_rounding, options.numeric_precision)

    def key(self, answer: str) -> str | None:
        return normalize(answer, ignore_case=self._options.ignore_case) or None

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        outcomes = [Outcome.ANSWERED] * len(keys)
        limit = self._options.max_answer_characters
        candidates = [i for i, key in enumerate(keys) if len(key) <= limit and is_comparable(key)]
        if len(candidates) < 2:
            return Relation(tuple(outcomes), frozenset())
        integers = {i for i in candidates if _PLAIN_INTEGER.fullmatch(keys[i])}
        doubtful = [i for i in candidates if i not in integers]
        readable = sorted(integers)
        if doubtful:
            checks = yield Ask(self.check, tuple((keys[i],) for i in doubtful), self._settings)
            for i, result in zip(doubtful, checks, strict=True):
                outcomes[i] = _outcome(result)
            readable = sorted(integers.union(i for i, r in zip(doubtful, checks, strict=True) if r.value is True))
        pairs = [pair for pair in combinations(readable, 2) if not integers.issuperset(pair)]
        if not pairs:
            return Relation(tuple(outcomes), frozenset())
        asked = tuple((keys[i], keys[j]) for i, j in pairs)
        results = yield Ask("voting.answers.mathematics:equal", asked, self._settings)
        return _relation(outcomes, pairs, results)


def pairwise(function: Callable[[str, str], bool]) -> Entry[Any]:
    """A registry entry for a user's own `function(first, second) -> bool`.

    It is called in worker processes under a deadline, in both directions; keys are the answers without outer
    whitespace. It must stand at the top of a module that `run.plugins` names, for workers import it from there. An
    answer whose comparison with itself fails or does not end abstains.

    Raises:
        ValueError: workers could not import the function.

    Example:
        >>> def same_letters(first: str, second: str) -> bool:
        ...     return sorted(first) == sorted(second)
        >>> entry = pairwise(same_letters)  # EQUIVALENCES["anagram"] = pairwise(same_letters)
    """
    if function.__module__ == "__main__" or not function.__qualname__.isidentifier():
        raise ValueError(
            f"pairwise got {function.__module__}:{function.__qualname__}, which worker processes cannot import: put "
            "the function at the top of a module, and name that module (run.plugins, plugins=, --plugin)"
        )
    return Entry(lambda options: Pairwise(f"{function.__module__}:{function.__qualname__}"), Options)


class Pairwise:
    """Two answers are the same when a function says so in either direction."""

    preload = ()
    is_by_key = False

    def __init__(self, function: str) -> None:
        """Args: function: "module:function", called as function(first, second)."""
        self._function = function

    def key(self, answer: str) -> str | None:
        return answer.strip() or None

    def relate(self, keys: Sequence[str]) -> Steps[Relation]:
        return (yield from _related_by(self._function, keys, in_both_directions=True))


def _related_by(
    function: str, keys: Sequence[str], *, first: tuple[str, ...] = (), in_both_directions: bool = False
) -> Steps[Relation]:
    """Compare every pair by function(*first, one, other); what cannot be compared with itself in time abstains."""
    if len(keys) < 2:
        return _unrelated(keys)
    checks = yield Ask(function, tuple((*first, key, key) for key in keys))
    outcomes = tuple(_outcome(result) for result in checks)
    pairs = list(combinations([i for i, outcome in enumerate(outcomes) if outcome is Outcome.ANSWERED], 2))
    asked = [(keys[i], keys[j]) for i, j in pairs]
    if in_both_directions:
        asked += [(keys[j], keys[i]) for i, j in pairs]
    if not asked:
        return Relation(outcomes, frozenset())
    results = yield Ask(function, tuple((*first, *pair) for pair in asked))
    return _relation(outcomes, pairs * (1 + in_both_directions), results)


EQUIVALENCES: Registry = {
    "exact": Entry(Exact, ExactOptions),
    "math_verify": Entry(MathVerify, MathVerifyOptions),
    "numeric": Entry(Numeric, NumericOptions),
    "raw": Entry(Raw),
    "reasoning_gym": Entry(ReasoningGym, ReasoningGymOptions),
}
"""Equivalences by name; each is called as `target(options)` and returns an Equivalence."""


def make_equivalence(plugin: Plugin) -> Equivalence:
    """The equivalence that a configuration names.

    Raises:
        ConfigError: unknown name or wrong options.

    Example:
        >>> make_equivalence(Plugin(name="exact")).key(" $7$ ")
        '7'
    """
    target, options = choose(EQUIVALENCES, plugin, "voting.equivalence")
    made: Equivalence = target(options)
    return made


def _unrelated(keys: Sequence[str]) -> Relation:
    return Relation((Outcome.ANSWERED,) * len(keys), frozenset())


def _outcome(result: JobResult) -> Outcome:
    if result.is_late:
        return Outcome.TIMED_OUT
    return Outcome.ERROR if result.status is JobStatus.ERROR else Outcome.ANSWERED


def _relation(outcomes: Sequence[Outcome], pairs: Sequence[tuple[int, int]], results: Sequence[JobResult]) -> Relation:
    equal = frozenset(pair for pair, result in zip(pairs, results, strict=True) if result.value is True)
    undecided = {
        pair for pair, result in zip(pairs, results, strict=True) if result.is_late or result.status is JobStatus.ERROR
    }
    return Relation(tuple(outcomes), equal, len(undecided - equal))
