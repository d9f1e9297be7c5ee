"""The file of an experiment: arms and seeds that share one base, and the manifest by which all of them are measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from configs.load import load_config
from configs.problems import check_plugin, describe, nearest
from configs.schema import DataSource, RunConfig
from configs.sections import NonNegativeFloat, NonNegativeInt, Plugin, PositiveInt, Section
from configs.yaml_text import YamlError, read_yaml
from quorum.errors import ConfigError
from quorum.registry import Registry

EXPERIMENT_DIR = Path(__file__).parent / "experiments"
_ARM = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OWNED = ("run.dir", "run.seed", "evaluation.")
"""Fields that the experiment sets: an override of one arm would measure it by another rule."""


class BaseSection(Section):
    """What all arms have in common, the base model above all."""

    preset: str
    """Preset name or YAML file."""
    overrides: tuple[str, ...] = ()
    """`section.field=value`, as on the command line."""


class ManifestSection(Section):
    """How every arm is measured: the same data, temperatures, completions and seeds for all of them."""

    data: tuple[DataSource, ...] = ()
    """Evaluation sets with reference answers; empty takes the base's."""
    completions: PositiveInt = 16
    """n of avg@n and maj@n."""
    temperatures: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (1.0,)
    """The first is used while training too; the final models are measured at the others afterwards. 0 is greedy."""
    every_steps: NonNegativeInt = 0
    """Evaluate every N steps; 0 only before the first and after the last step."""


class ExperimentConfig(Section):
    """A comparison."""

    title: str
    """Of figure and table."""
    source: str = ""
    """What it repeats, such as a figure of a paper."""
    base: BaseSection
    """Of all arms."""
    arms: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    """Overrides of each arm on top of the base's, by the arm's name."""
    seeds: PositiveInt = 1
    """Runs of each arm, with run.seed 0, 1, ..."""
    evaluation: ManifestSection = ManifestSection()
    """How every arm is measured."""
    figures: dict[str, Plugin] = {}
    """Numbers that it decides, by name: a function of `orchestration.experiments.figures` and its options."""

    @model_validator(mode="after")
    def _check_arms(self) -> ExperimentConfig:
        problems = [
            f"arms: {name!r} names a directory: use small letters, digits, - and _"
            for name in self.arms
            if not _ARM.fullmatch(name)
        ]
        lists = {"base.overrides": self.base.overrides, **{f"arms.{name}": words for name, words in self.arms.items()}}
        for place, words in lists.items():
            problems += [
                f"{place}: {word!r}: the experiment sets {_owner(word)} itself, alike for all arms; leave it out"
                for word in words
                if _owner(word)
            ]
        for name, figure in self.figures.items():
            named = [value for key, value in figure.options.items() if key in ("arm", "of")]
            problems += [
                f"figures.{name}: there is no arm {arm!r} (arms: {', '.join(self.arms)})"
                for arm in named
                if arm not in self.arms
            ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def overrides_of(self, arm: str, seed: int, run_dir: Path) -> list[str]:
        """All words of one run on top of the preset, in the order in which they apply."""
        manifest = self.evaluation
        words = [f"run.dir={json.dumps(str(run_dir))}", f"run.seed={seed}"]
        if manifest.data:
            sources = [source.model_dump(mode="json", exclude_defaults=True) for source in manifest.data]
            words.append(f"evaluation.data={json.dumps(sources)}")
        words += [
            f"evaluation.completions_per_prompt={manifest.completions}",
            f"evaluation.temperature={manifest.temperatures[0]:g}",
            f"evaluation.every_steps={manifest.every_steps}",
        ]
        return [*self.base.overrides, *self.arms[arm], *words]

    def config_of(
        self, arm: str, seed: int, run_dir: Path, registries: Mapping[str, Registry] | None = None
    ) -> RunConfig:
        """The configuration of one run.

        Args:
            arm: its name.
            seed: run.seed.
            run_dir: run.dir.
            registries: see `configs.load.load_config`.

        Raises:
            ConfigError: every problem, with the arm named.
        """
        try:
            return load_config(self.base.preset, self.overrides_of(arm, seed, run_dir), registries=registries)
        except ConfigError as error:
            raise ConfigError([f"arm {arm}: {problem}" for problem in error.problems]) from error


def experiment_names() -> list[str]:
    """Names of the shipped experiments, sorted."""
    return sorted(path.stem for path in EXPERIMENT_DIR.glob("*.yaml"))


def load_experiment(
    source: str | Path,
    figures: Registry,
    *,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
) -> tuple[str, ExperimentConfig]:
    """Read an experiment and check all of it but the runs' own configurations.

    Args:
        source: name of a shipped experiment, or a YAML file.
        figures: the registry of figure functions.
        overrides: `section.field=value` of every arm, after the base's and before the arm's own.
        seeds: runs of each arm, instead of the file's.

    Returns:
        (name, experiment).

    Raises:
        ConfigError: every problem found.
    """
    path = _find(source)
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"experiment {path}: cannot be read: {error}") from error
    except YamlError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"experiment {path}: expected title, base and arms, got {type(tree).__name__}")
    try:
        found = ExperimentConfig.model_validate(tree)
        base = {"preset": found.base.preset, "overrides": [*found.base.overrides, *overrides]}
        changed = tree | {"base": base} | ({} if seeds is None else {"seeds": seeds})
        found = ExperimentConfig.model_validate(changed)
    except ValidationError as error:
        raise ConfigError([f"{path}: {line}" for line in describe(error, root=ExperimentConfig)]) from error
    problems = [line for name, one in found.figures.items() for line in check_plugin(one, figures, f"figures.{name}")]
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return path.stem, found


def _owner(word: str) -> str:
    field = word.partition("=")[0].strip()
    return next((name.rstrip(".") for name in _OWNED if field == name.rstrip(".") or field.startswith(name)), "")


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        if not path.is_file():
            raise ConfigError(f"experiment {path}: no such file (shipped: {', '.join(experiment_names())})")
        return path
    shipped = EXPERIMENT_DIR / f"{source}.yaml"
    if shipped.is_file():
        return shipped
    guess = nearest(str(source), experiment_names())
    hint = f"; did you mean {guess}?" if guess else ""
    raise ConfigError(
        f"no experiment is called {str(source)!r}{hint} (shipped: {', '.join(experiment_names())}; a file's name ends "
        "in .yaml)"
    )
