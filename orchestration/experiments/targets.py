"""What a preset should reach (`configs/paper_targets.yaml`), and whether a run's rows reach it.

A target without a measurement is never counted as met: `not_measured` says which evaluation is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from configs.files import PRESET_DIR
from configs.problems import describe
from configs.sections import NonNegativeFloat, NonNegativeInt, Section
from configs.yaml_text import YamlError, read_yaml
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.metrics import METRICS, check_names
from quorum.errors import ConfigError

TARGETS_FILE = PRESET_DIR.parent / "paper_targets.yaml"
Status = Literal["met", "missed", "not_measured"]
_OF_SETS = ("eval/average_accuracy", "eval/majority_accuracy", "eval/generation_verification_gap")
"""Metrics that the audit gives for each data source too."""


class Target(Section):
    """One number that a run should reach."""

    metric: str
    """Registered name."""
    sets: tuple[str, ...] = ()
    """Data sources whose unweighted mean counts; empty: the metric as logged (evaluations: the macro average)."""
    steps: tuple[NonNegativeInt, NonNegativeInt]
    """First and last step whose rows count, both included."""
    of: Literal["all", "any", "last", "max"] = "last"
    """Which of those rows must fulfil the bound; last and max choose one."""
    about: float | None = None
    """The paper's number: the measured one may differ by `tolerance`."""
    at_least: float | None = None
    """Bound as stated."""
    at_most: float | None = None
    """Bound as stated."""
    tolerance: NonNegativeFloat | None = None
    """For `about`; None: the file's."""
    variant: str | None = None
    """Which of several models that came of a preset ("sft"); None: the run itself."""
    source: Annotated[str, Field(alias="from", min_length=1)]
    """Figure or table."""

    @model_validator(mode="after")
    def _check(self) -> Target:
        if sum(value is not None for value in (self.about, self.at_least, self.at_most)) != 1:
            raise ValueError("expected exactly one of about, at_least, at_most")
        if self.tolerance is not None and self.about is None:
            raise ValueError("tolerance belongs to about; bounds are taken as stated")
        if self.steps[0] > self.steps[1]:
            raise ValueError(f"steps {list(self.steps)}: the first comes first")
        if self.sets and self.metric not in _OF_SETS:
            raise ValueError(f"sets: {self.metric} is not measured by data source")
        check_names([self.metric])
        return self

    def is_met_by(self, value: float) -> bool:
        """Whether a measured value fulfils the bound."""
        if self.at_least is not None:
            return value >= self.at_least
        if self.at_most is not None:
            return value <= self.at_most
        assert self.about is not None and self.tolerance is not None
        return abs(value - self.about) <= self.tolerance + 1e-9

    def wanted(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"{self.about:g} +- {self.tolerance:g}"


@dataclass(frozen=True, slots=True)
class Targets:
    """Of one preset."""

    preset: str
    targets: tuple[Target, ...]
    why_none: str | None
    """Why there is no target; None where there is one."""


@dataclass(frozen=True, slots=True)
class Check:
    """A target beside what was measured."""

    target: Target
    status: Status
    value: float | None
    """The measured value that decided; None: not measured."""
    step: int | None
    """Where it was measured."""

    @property
    def sentence(self) -> str:
        """In words, for a report."""
        target, (first, last) = self.target, self.target.steps
        where = f" ({', '.join(target.sets)})" if target.sets else ""
        span = f"step {first}" if first == last else f"steps {first} to {last} ({target.of})"
        of = f"{target.variant}: " if target.variant else ""
        wanted = f"{of}{target.metric}{where}, {span}: {target.wanted()} [{target.source}]"
        if self.value is None:
            return f"not measured: {wanted}"
        return f"{self.status}: {wanted}; {self.value:.4g} at step {self.step}"


def check_targets(
    rows: Iterable[Mapping[str, Any]], targets: Sequence[Target], *, variant: str | None = None
) -> list[Check]:
    """Compare a run's rows with targets.

    Args:
        rows: each with `step` and metrics by registered name; for targets with sets also `sources` by data source, as
            `audit/eval.jsonl` has it. Rows of one step add up.
        targets: of a preset, with their tolerance filled in as `load_targets` does.
        variant: which model the rows measure; targets of other variants are left out.

    Returns:
        One check per target of the variant, in order.
    """
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(int(row["step"]), {}).update({key: value for key, value in row.items() if value is not None})
    return [_check_one(merged, target) for target in targets if target.variant == variant]


def _check_one(rows: Mapping[int, Mapping[str, Any]], target: Target) -> Check:
    first, last = target.steps
    found = [(step, _value(rows[step], target)) for step in sorted(rows) if first <= step <= last]
    measured = [(step, value) for step, value in found if value is not None]
    if not measured:
        return Check(target, "not_measured", None, None)
    choices: dict[str, Callable[[], tuple[int, float]]] = {
        "last": lambda: measured[-1],
        "max": lambda: max(measured, key=lambda pair: pair[1]),
        "all": lambda: next((pair for pair in measured if not target.is_met_by(pair[1])), measured[-1]),
        "any": lambda: next((pair for pair in measured if target.is_met_by(pair[1])), measured[-1]),
    }
    step, value = choices[target.of]()
    return Check(target, "met" if target.is_met_by(value) else "missed", value, step)


def _value(row: Mapping[str, Any], target: Target) -> float | None:
    if not target.sets:
        value = row.get(target.metric)
        return None if value is None else float(value)
    sources = row.get("sources") or {}
    if any(name not in sources for name in target.sets):
        return None
    figure = target.metric.partition("/")[2]
    return sum(float(sources[name][figure][0]) for name in target.sets) / len(target.sets)


def load_targets(path: Path = TARGETS_FILE) -> dict[str, Targets]:
    """Read the targets of all presets.

    Raises:
        ConfigError: every problem found: malformed YAML, unknown keys, metrics that are not registered, wrong bounds.
    """
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except YamlError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error
    if not isinstance(tree, dict) or tree.keys() != {"tolerance", "presets"} or not isinstance(tree["presets"], dict):
        raise ConfigError(f"{path}: expected `tolerance` and `presets`")
    found: dict[str, Targets] = {}
    problems: list[str] = []
    for preset, listed in tree["presets"].items():
        if isinstance(listed, str):
            found[preset] = Targets(preset, (), listed)
        elif not isinstance(listed, list) or not listed:
            problems.append(f"{preset}: expected a list of targets, or a text that says why there is none")
        else:
            targets, wrong = _read_targets(preset, listed, float(tree["tolerance"]))
            found[preset] = Targets(preset, tuple(targets), None)
            problems += wrong
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return found


def _read_targets(preset: str, listed: Sequence[Any], tolerance: float) -> tuple[list[Target], list[str]]:
    targets: list[Target] = []
    problems: list[str] = []
    for index, one in enumerate(listed):
        try:
            target = Target.model_validate(one)
        except ValidationError as error:
            problems += describe(error, prefix=(preset, str(index)), root=Target)
            continue
        if target.about is not None and target.tolerance is None:
            target = target.model_copy(update={"tolerance": tolerance})
        targets.append(target)
    return targets, problems


def read_run_rows(run_dir: str | Path) -> list[dict[str, Any]]:
    """Rows of a run that count, for `check_targets`: metrics, what the audit measured, evaluations by data source."""
    rows: list[dict[str, Any]] = []
    for name in ("metrics.jsonl", "audit/labels.jsonl", "audit/eval.jsonl"):
        for step, held in current_rows(read_rows(Path(run_dir) / name)).items():
            for row in held:
                kept = {key: row[key] for key in (*(METRICS.keys() & row.keys()), "sources") if key in row}
                rows.append({"step": step, **kept})
    return rows
