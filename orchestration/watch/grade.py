"""Whether answers equal a reference, by the equivalence the run votes with. For the audit and evaluation alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

from configs.schema import VotingSection
from voting.library import Voting


class Grader:
    """Compares answers with references; owns the equivalence's worker processes until closed.

    Example:
        with Grader(config.voting) as grader:
            grader.grade("1/2", ["0.5", None, "3"])
    """

    def __init__(self, section: VotingSection, plugins: Sequence[str] = ()) -> None:
        """Bind the equivalence of a section and its limits; nothing else of it is used.

        Raises:
            ConfigError: the equivalence is unknown.
        """
        self._voting = Voting(VotingSection(equivalence=section.equivalence, service=section.service), plugins=plugins)
        self._known: dict[tuple[str, str], bool] = {}

    def grade(self, reference: str, answers: Sequence[str | None]) -> list[bool]:
        """Whether each answer equals the reference.

        Args:
            reference: the reference answer, as the data has it.
            answers: [n] canonical answers; None is wrong.

        Returns:
            [n]. An answer that cannot be compared in time is wrong; so is every answer to an empty reference.

        Raises:
            VotingError: the equivalence's worker processes could not be started.
        """
        self.grade_ahead([(reference, answers)])
        return [answer is not None and self._known[reference, answer] for answer in answers]

    def grade_ahead(self, rows: Iterable[tuple[str, Sequence[str | None]]]) -> None:
        """Compare the answers of many rows at once, side by side, so that grading each of them is a look-up.

        Args:
            rows: (reference, answers) as `grade` takes them.

        Raises:
            VotingError: as `grade`.
        """
        pairs = {
            (reference, answer): None
            for reference, answers in rows
            for answer in answers
            if answer is not None and (reference, answer) not in self._known
        }
        comparable = [pair for pair in pairs if all(self._voting.key(text) for text in pair)]
        verdicts = zip(comparable, self._voting.same(comparable), strict=True)
        self._known |= dict.fromkeys(pairs, False) | dict(verdicts)

    @property
    def pids(self) -> list[int]:
        """Worker processes that run now."""
        return self._voting.pids

    def close(self) -> None:
        """End the worker processes."""
        self._voting.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
