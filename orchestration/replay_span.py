"""Where a replay starts and ends, and what it may change. Reads directories and configurations alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.identity import bit_differences, identity_differences
from configs.schema import RunConfig
from orchestration.checkpoint import checkpoint_of_step
from orchestration.group_table import closed_files
from orchestration.registries import load_run_config
from orchestration.run_dir import read_config
from quorum.errors import ConfigError, DataError

SETTABLE = ("learner", "voting", "model", "cluster", "deadlines", "rollout.temperature", "run.plugins")
"""What another setting can change in a replay: it generates nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """Steps to replay: those numbered first, ..., last - 1."""

    first: int
    """Steps done in the checkpoint to start from; 0 is the base model."""
    last: int
    """Steps done at the end."""
    has_end: bool
    """Whether a checkpoint after `last` steps is there to compare with."""


def replay_config(path: Path, overrides: Sequence[str]) -> tuple[RunConfig, tuple[str, ...]]:
    """The run's configuration with overrides, and which of them change what is learned or its bits.

    Raises:
        ConfigError: an override is wrong, or changes what a replay does not do.
    """
    old = read_config(path)
    if old.run.mode == "rollout_only":
        raise ConfigError(f"run {path} has learned nothing (run.mode=rollout_only): there is nothing to learn again")
    idle = [text for text in overrides if not _is_settable(text.partition("=")[0].strip())]
    if idle:
        raise ConfigError(f"{', '.join(idle)}: a replay votes and learns; what it can change is {', '.join(SETTABLE)}")
    new = load_run_config(path / "config.yaml", overrides)
    return new, tuple(sorted({*identity_differences(old, new), *bit_differences(old, new)}))


def _is_settable(name: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in SETTABLE)


def checkpoints_of(path: Path) -> list[int]:
    """Steps done in each whole checkpoint that is still there, in order."""
    found = (entry.name.removeprefix("step-") for entry in (path / "checkpoints").glob("step-*"))
    return sorted(int(number) for number in found if number.isdigit())


def find_span(path: Path, first: int, last: int | None) -> Span:
    """Where a replay of the steps from `first` on starts and ends.

    Args:
        path: of the run.
        first: steps done before the first step to replay; its checkpoint must be there, unless it is 0.
        last: steps done after the last one; None goes on to the next checkpoint, or over all closed steps.

    Raises:
        ConfigError: there is no such checkpoint, or nothing in between.
    """
    held = checkpoints_of(path)
    if first and first not in held:
        starts = ", ".join(map(str, [0, *held]))
        before = max((step for step in held if step <= first), default=0)
        raise ConfigError(
            f"no checkpoint after {first} steps in {path}/checkpoints: a replay can start after {starts} steps (0 is "
            f"the base model); step {first} is among `--steps {before}..{first + 1}`; keep more of them with "
            "checkpoint.keep and checkpoint.every_steps"
        )
    if last is None:
        last = next((step for step in held if step > first), None)
    if last is None:
        last = max((step + 1 for step in closed_files(path)), default=first)
    if last <= first:
        raise ConfigError(f"no step of {path} comes after {first} steps and before {last}: nothing to replay")
    return Span(first, last, last in held)


def check_steps(path: Path, span: Span) -> None:
    """Raise DataError where groups of the span, or its first checkpoint, are not whole."""
    missing = sorted(set(range(span.first, span.last)) - closed_files(path).keys())
    if missing:
        raise DataError(f"run {path} holds no closed groups of step {', '.join(map(str, missing[:8]))}")
    for step in (span.first, *([span.last] if span.has_end else [])):
        if step:
            checkpoint_of_step(path, step)  # raises where a file of it is damaged
