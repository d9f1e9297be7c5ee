"""The runs of an experiment: where each stands, what is left to do, and whose results may be counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.experiment import ExperimentConfig
from configs.identity import result_differences
from configs.schema import RunConfig
from orchestration.registries import registries
from orchestration.run_dir import is_driven, read_config, read_info
from quorum.errors import ConfigError

ROOT = Path("runs") / "experiments"
Standing = Literal["new", "begun", "done"]


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One run: an arm with a seed."""

    arm: str
    seed: int
    config: RunConfig

    @property
    def path(self) -> Path:
        return self.config.run_path

    @property
    def name(self) -> str:
        """In words for the operator."""
        return f"{self.arm} seed {self.seed}"

    def standing(self) -> Standing:
        """Whether it is there.

        Raises:
            ConfigError: its directory holds a run of another configuration, or something else drives it.
        """
        if not (self.path / "run.json").is_file():
            return "new"
        if different := result_differences(read_config(self.path), self.config):
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({', '.join(different)} differ): move or remove "
                "it, or give the experiment another directory with --out"
            )
        if is_driven(self.path):
            raise ConfigError(f"{self.path} is being driven by another process; wait for it, or stop it")
        return "done" if read_info(self.path).state == "done" else "begun"


def arm_runs(name: str, experiment: ExperimentConfig, out: Path | None = None) -> list[ArmRun]:
    """All runs, seed by seed, so that every arm has its first seed before one has its second.

    Args:
        name: of the experiment.
        experiment: its file.
        out: its directory; None is runs/experiments/NAME.

    Raises:
        ConfigError: the configuration of an arm is wrong.
    """
    return list(_runs(directory_of(name, out), experiment))


def directory_of(name: str, out: Path | None = None) -> Path:
    """Where an experiment's runs, figure and table are."""
    return ROOT / name if out is None else out


def _runs(root: Path, experiment: ExperimentConfig) -> Iterator[ArmRun]:
    known, problems = registries(), []
    for seed in range(experiment.seeds):
        for arm in experiment.arms:
            path = root / arm / f"seed-{seed}"
            try:
                yield ArmRun(arm, seed, experiment.config_of(arm, seed, path, known))
            except ConfigError as error:
                if seed == 0:
                    problems += error.problems
    if problems:
        raise ConfigError(problems)
