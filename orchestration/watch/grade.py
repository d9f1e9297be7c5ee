"""Whether answers equal a reference, by the equivalence the run votes with. For the audit and evaluation alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from configs.schema import VotingSection
from voting.equivalence import Equivalence, make_equivalence


class Grader:
    """Compares answers with references; owns the equivalence's worker processes until closed.

    Example:
        with Grader(config.voting) as grader:
            grader.grade("1/2", ["0.5", None, "3"])
    """

    def __init__(self, section: VotingSection) -> None:
        """Raises ConfigError when the equivalence is unknown."""
        self._equivalence: Equivalence = make_equivalence(section)
        self._known: dict[tuple[str, str], bool] = {}

    def grade(self, reference: str, answers: Sequence[str | None]) -> list[bool]:
        """Whether each answer equals the reference.

        Args:
            reference: the reference answer, as the data has it.
            answers: [n] canonical answers; None is wrong.

        Returns:
            [n]. An answer that cannot be compared in time is wrong; so is every answer to an empty reference.
        """
        target = self._equivalence.key(reference)
        return [answer is not None and self._equal(target, self._equivalence.key(answer)) for answer in answers]

    def _equal(self, target: str, key: str) -> bool:
        if not target or not key:
            return False
        if key == target:
            return True
        pair = (min(target, key), max(target, key))
        if pair not in self._known:
            self._known[pair] = bool(self._equivalence.relate(pair).pairs)
        return self._known[pair]

    def close(self) -> None:
        """End the worker processes."""
        self._equivalence.stop()

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
