"""The plug-in registries of all stages, gathered above them, and configurations checked against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.load import load_config
from configs.schema import RunConfig
from quorum.registry import Registry


def registries() -> Mapping[str, Registry]:
    """Registry by the dotted name of the configuration field that names its entries."""
    from learner.registry import ALGORITHMS, LOSSES
    from orchestration.watch.guard.registry import DETECTORS
    from orchestration.watch.sinks.registry import SINKS
    from rollout.engines.registry import ENGINES
    from voting.equivalence import EQUIVALENCES
    from voting.extract import EXTRACTORS
    from voting.rules import VOTE_RULES
    from voting.sources import LABEL_SOURCES

    return {
        "rollout.engine": ENGINES,
        "voting.extractor": EXTRACTORS,
        "voting.equivalence": EQUIVALENCES,
        "voting.labels": LABEL_SOURCES,
        "voting.rule": VOTE_RULES,
        "learner.algorithm": ALGORITHMS,
        "learner.loss": LOSSES,
        "guard.detectors": DETECTORS,
        "report.sinks": SINKS,
    }


def load_run_config(source: str | Path | RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a configuration with plug-ins imported and every {name, options} checked. Raises ConfigError."""
    if isinstance(source, RunConfig):
        return source
    return load_config(source, overrides, registries=registries())
