"""Every error Quorum raises on purpose, split by who must act.

    QuorumError
    |-- ConfigError            the user: configuration or command line (exit 2)
    |-- DataError              the user: prompts, model directory, references (exit 3)
    |-- ResourceError          the user or the cluster: CPUs, GPUs, disk, ports, a start that cannot succeed (exit 4)
    |-- StageError             a stage failed while the run was going (exit 5, checkpoint kept)
    |   |-- RolloutError
    |   |   |-- EngineTimeout      no progress within the deadline
    |   |   `-- EngineDied         the engine or its actor is gone
    |   |-- VotingError
    |   |-- WeightSyncError
    |   |   `-- StaleSamplerError
    |   |-- LearnerError
    |   |   |-- NonFiniteLoss
    |   |   |-- RankFailure        a rank died, failed or stalled: all of them can be started again
    |   |   `-- LearnerOutOfMemory an update did not fit: with a smaller micro-batch it may
    |   `-- StorageError           a write failed (disk full): what was written before is kept
    |-- StoppedByGuard         the policy collapses and the guard was told to end it (exit 6, checkpoint saved)
    `-- Interrupted            Ctrl-C or SIGTERM (exit 130 / 143, checkpoint saved)

Messages say what was got, what was wanted and what to do next. Every class survives pickling: its
constructor's arguments are its `args`.
"""

from __future__ import annotations

import signal


class QuorumError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ConfigError(QuorumError):
    """The configuration is wrong. Holds every problem found, not just the first."""

    exit_code = 2

    def __init__(self, problems: list[str] | tuple[str, ...] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return f"{len(self.problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in self.problems)


class DataError(QuorumError):
    """Prompts, references or a model directory cannot be used."""

    exit_code = 3


class ResourceError(QuorumError):
    """The machine or cluster cannot hold the plan, or a start cannot succeed."""

    exit_code = 4


class StageError(QuorumError):
    """A stage failed while the run was going; finished groups and the last checkpoint are kept."""

    exit_code = 5


class RolloutError(StageError):
    """Samplers could not produce a group."""


class EngineTimeout(RolloutError):
    """A sampler made no progress within its deadline."""


class EngineDied(RolloutError):
    """A sampler's engine or actor is gone."""


class VotingError(StageError):
    """A voting replica failed."""


class WeightSyncError(StageError):
    """A published version did not reach every sampler."""


class StaleSamplerError(WeightSyncError):
    """A sampler still holds another policy version than the request requires."""

    def __init__(self, sampler_id: str, held: int, required: int) -> None:
        super().__init__(sampler_id, held, required)
        self.sampler_id, self.held, self.required = sampler_id, held, required

    def __str__(self) -> str:
        return (
            f"sampler {self.sampler_id} holds policy version {self.held}, the request needs {self.required}; "
            "the last weight sync did not finish on it"
        )


class LearnerError(StageError):
    """A learner rank failed."""


class NonFiniteLoss(LearnerError):
    """The loss or the gradient is not finite; the optimizer was not stepped."""


class RankFailure(LearnerError):
    """A rank died, failed unforeseen or stalled. The ranks can be started again from the last checkpoint."""


class LearnerOutOfMemory(LearnerError):
    """An update did not fit into a rank's memory. With a smaller `learner.max_tokens_per_micro_batch` it may."""


class StorageError(StageError):
    """A write to the run directory failed; earlier writes are kept."""


class StoppedByGuard(QuorumError):
    """The collapse guard ended the run after a checkpoint was saved."""

    exit_code = 6


class Interrupted(QuorumError):
    """A signal ended the run after a checkpoint was saved."""

    def __init__(self, signum: int, way_on: str | None = None) -> None:
        """`way_on` is the command that continues the run, if there is one."""
        super().__init__(signum, way_on)
        self.signum, self.way_on = signum, way_on

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return 128 + self.signum

    def __str__(self) -> str:
        way_on = f"; continue with `{self.way_on}`" if self.way_on else ""
        return f"stopped by {signal.Signals(self.signum).name}{way_on}"
