"""When two answers are the same: exact after normalisation, or mathematical through math-verify.

An equivalence first maps every answer to a key; equal keys are one answer. Only one representative per key goes on to
`relate`, sorted, so that the order of completions cannot matter.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Protocol

from pydantic import Field

from configs.schema import VotingSection
from quorum.registry import Entry, Options, Registry
from quorum.types import Outcome
from voting.jobs import JobResult, JobStatus
from voting.mathematics import is_comparable
from voting.plugins import choose
from voting.workers import START_SECONDS, WorkerPool

_SPACE = re.compile(r"\s+")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_CACHE_ENTRIES = 1 << 16
_ROUND = 8
_MAX_TIMEOUTS = 8


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What an equivalence may spend on worker processes."""

    num_workers: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Relation:
    """How m distinct answers relate."""

    outcomes: tuple[Outcome, ...]
    """[m] ANSWERED, or why the answer cannot be compared and abstains."""
    pairs: frozenset[tuple[int, int]]
    """(i, j) with i < j where the equivalence holds in at least one direction."""


class Equivalence(Protocol):
    """What the tally needs to know about sameness."""

    def key(self, answer: str) -> str:
        """Answers with equal keys are the same without further question; an empty key abstains."""

    def relate(self, keys: Sequence[str]) -> Relation:
        """Compare m >= 1 distinct, sorted keys. Depends on the set of keys alone."""

    def start(self, timeout: float = START_SECONDS) -> None:
        """Make ready; optional, the first comparison does it too."""

    def stop(self, timeout: float = 5.0) -> None:
        """End every process within `timeout` seconds."""

    @property
    def pids(self) -> list[int]:
        """Worker processes that run now."""


def normalize(answer: str, *, ignore_case: bool = False) -> str:
    r"""An answer without outer and repeated whitespace, $...$ and its kin around it, and a final period.

    Idempotent. Whitespace inside becomes one blank.

    Example:
        >>> normalize(" $ 7 $. "), normalize("New\n  York")
        ('7', 'New York')
    """
    if answer.isalnum():
        return answer.casefold() if ignore_case else answer
    text = _SPACE.sub(" ", answer).strip()
    while (shorter := _strip_once(text)) != text:
        text = shorter
    return text.casefold() if ignore_case else text


def _strip_once(text: str) -> str:
    if text.endswith(".") and not text.endswith(".."):
        return text[:-1].rstrip()
    for left, right in _WRAPPERS:
        if len(text) >= len(left) + len(right) and text.startswith(left) and text.endswith(right):
            inner = text[len(left) : -len(right)]
            if left[0] not in inner if left[0] == "$" else left not in inner and right not in inner:
                return inner.strip()
    return text


class ExactOptions(Options):
    """Options of the exact equivalence."""

    ignore_case: bool = False
    """Whether "Paris" and "paris" are one answer."""


class Exact:
    """Two answers are the same when they are equal after `normalize`. Starts no process."""

    def __init__(self, limits: WorkerLimits, options: ExactOptions) -> None:
        self._ignore_case = options.ignore_case

    def key(self, answer: str) -> str:
        return normalize(answer, ignore_case=self._ignore_case)

    def relate(self, keys: Sequence[str]) -> Relation:
        return Relation((Outcome.ANSWERED,) * len(keys), frozenset())

    def start(self, timeout: float = START_SECONDS) -> None:
        """Nothing to start."""

    def stop(self, timeout: float = 5.0) -> None:
        """Nothing to stop."""

    @property
    def pids(self) -> list[int]:
        return []


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

    Every parse and comparison runs in a worker process that is killed at its deadline. An answer that cannot be read
    or compared with a plain number in time has outcome TIMED_OUT and abstains; a comparison of two readable answers
    that does not end counts as unequal. What math-verify cannot read at all equals only its own text. After 8
    timeouts in one group the rest of it is not tried: a group's wait is bounded. Results are cached.
    """

    def __init__(self, limits: WorkerLimits, options: MathVerifyOptions) -> None:
        self._options = options
        self._settings = (options.strict, options.float_rounding, options.numeric_precision)
        self._pool = WorkerPool(
            num_workers=limits.num_workers,
            cpu_seconds=limits.cpu_seconds,
            preload=("voting.mathematics:warm_up",),
        )
        self._cache: OrderedDict[tuple[str, ...], JobResult] = OrderedDict()

    def key(self, answer: str) -> str:
        return normalize(answer, ignore_case=self._options.ignore_case)

    def relate(self, keys: Sequence[str]) -> Relation:
        outcomes = [Outcome.ANSWERED] * len(keys)
        limit = self._options.max_answer_characters
        candidates = [i for i, key in enumerate(keys) if len(key) <= limit and is_comparable(key)]
        if len(candidates) < 2:
            return Relation(tuple(outcomes), frozenset())
        readable = []
        for i, result in zip(candidates, self._ask("check", [(keys[i],) for i in candidates]), strict=True):
            if result.status is JobStatus.TIMED_OUT:
                outcomes[i] = Outcome.TIMED_OUT
            elif result.status is JobStatus.ERROR:
                outcomes[i] = Outcome.ERROR
            elif result.value:
                readable.append(i)
        pairs = list(combinations(readable, 2))
        results = self._ask("equal", [(keys[i], keys[j]) for i, j in pairs])
        equal = (pair for pair, result in zip(pairs, results, strict=True) if result.value is True)
        return Relation(tuple(outcomes), frozenset(equal))

    def start(self, timeout: float = START_SECONDS) -> None:
        self._pool.start(timeout)

    def stop(self, timeout: float = 5.0) -> None:
        self._pool.stop(timeout)

    @property
    def pids(self) -> list[int]:
        return self._pool.pids

    @property
    def num_replaced(self) -> int:
        """Workers killed or lost so far."""
        return self._pool.num_replaced

    def _ask(self, question: str, subjects: Sequence[tuple[str, ...]]) -> list[JobResult]:
        """One result per subject; asked in rounds of fixed content, so that the cut-off depends on nothing else."""
        results: list[JobResult] = []
        num_timeouts = 0
        for start in range(0, len(subjects), _ROUND):
            subjects_now = subjects[start : start + _ROUND]
            if num_timeouts >= _MAX_TIMEOUTS:
                results += [JobResult(JobStatus.TIMED_OUT)] * len(subjects_now)
                continue
            answered = self._ask_round(question, subjects_now)
            num_timeouts += sum(result.status is JobStatus.TIMED_OUT for result in answered)
            results += answered
        return results

    def _ask_round(self, question: str, subjects: Sequence[tuple[str, ...]]) -> list[JobResult]:
        keys = [(question, *subject) for subject in subjects]
        unknown = [i for i, key in enumerate(keys) if key not in self._cache]
        fresh: list[JobResult] = []
        if unknown:
            fresh = self._pool.run(f"voting.mathematics:{question}", [(*subjects[i], *self._settings) for i in unknown])
        for i, result in zip(unknown, fresh, strict=True):
            self._cache[keys[i]] = result
        answered = []
        for key in keys:
            self._cache.move_to_end(key)
            answered.append(self._cache[key])
        while len(self._cache) > _CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return answered


EQUIVALENCES: Registry = {
    "exact": Entry(Exact, ExactOptions),
    "math_verify": Entry(MathVerify, MathVerifyOptions),
}
"""Equivalences by name; each is called as `target(limits, options)` and returns an Equivalence."""


def make_equivalence(section: VotingSection) -> Equivalence:
    """The equivalence that a configuration names. Starts no process yet.

    Raises:
        ConfigError: unknown name or wrong options.

    Example:
        >>> make_equivalence(VotingSection()).key(" $7$ ")
        '7'
    """
    target, options = choose(EQUIVALENCES, section.equivalence, "voting.equivalence")
    made: Equivalence = target(WorkerLimits(section.num_workers, section.cpu_seconds), options)
    return made
