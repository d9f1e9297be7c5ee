"""`evaluate`: measure a model on data with reference answers, through the samplers and voters that training uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.load import load_config
from configs.schema import RunConfig
from orchestration.evaluation import Evaluator
from orchestration.model_session import open_session
from orchestration.registries import registries
from orchestration.watch.audit import AuditProcess
from quorum.errors import DataError, StageError
from quorum.types import Role


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Scores of one model."""

    path: Path
    """Directory with the groups (Parquet) and `audit/eval.jsonl`."""
    seed: int
    scores: dict[float, dict[str, Any]] = field(default_factory=dict)
    """By temperature: the row that the audit wrote, see docs/formats.md."""


def evaluate(
    model: str,
    data: str,
    *,
    temperatures: Sequence[float] = (1.0,),
    num_completions: int = 16,
    out: str | Path,
    preset: str = "eval",
    overrides: Sequence[str] = (),
    live: bool | None = None,
) -> EvaluationResult:
    """Draw n completions per prompt at each temperature and score them against the references.

    Args:
        model: Hugging Face directory or hub name.
        data: anything `data.train.N.path` takes; its rows need reference answers.
        temperatures: 0 is greedy (one completion is drawn).
        num_completions: n of avg@n and maj@n.
        out: directory to make for groups and scores.
        preset: preset or YAML file to start from: prompt suffix, limits, extractor, equivalence, samplers. A run's own
            config.yaml measures its model as it was trained.
        overrides: `section.field=value` on top.
        live: show the live display; None decides by the terminal.

    Raises:
        ConfigError, DataError, ResourceError: before anything starts; DataError also when no row has a reference.
        StageError: a stage failed.
    """
    source = f"[{{path: {json.dumps(data)}}}]"
    words = [f"run.dir={out}", f"model.path={model}", f"evaluation.data={source}", f"data.train={source}"]
    return measure(
        load_config(preset, [*words, *overrides], registries=registries()), temperatures, num_completions, live
    )


def measure(
    config: RunConfig, temperatures: Sequence[float], num_completions: int, live: bool | None = None
) -> EvaluationResult:
    """Draw n completions per prompt of `evaluation.data` at each temperature; see `evaluate`, which it is behind.

    Args:
        config: its model, data, limits, voting and samplers count; run.dir is made.
        temperatures: 0 is greedy.
        num_completions: n.
        live: see `evaluate`.
    """
    data = ", ".join(source.path for source in config.evaluation.data)
    result = EvaluationResult(config.run_path.absolute(), config.run.seed)
    with open_session(config, live) as session, ExitStack() as cleanup:
        audit = AuditProcess.start(session.path)
        cleanup.callback(audit.stop, config.deadlines.stop_seconds)
        for index, temperature in enumerate(temperatures):
            at = _at(config, temperature, num_completions)
            session.display.phase("evaluate", f"temperature {temperature:g}")
            Evaluator(at, session.rollout, session.log, session.prompts, branch=0).run(index, version=0)
            result.scores[temperature] = _scored(audit, index, config.deadlines.vote_seconds, data)
    return result


def _at(config: RunConfig, temperature: float, num_completions: int) -> RunConfig:
    """The configuration of one temperature; greedy draws once, for all its completions would be equal."""
    wanted = {"temperature": temperature, "completions_per_prompt": num_completions if temperature else 1}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=wanted)})


def _scored(audit: AuditProcess, step: int, timeout: float, data: str) -> dict[str, Any]:
    row = audit.wait_for_row(step, Role.EVAL, timeout)
    if row is None:
        why = audit.failure or f"the scores were not there within {timeout:.0f} s (deadlines.vote_seconds)"
        raise StageError(f"evaluation of {data}: {why}; the groups are kept, and scored by {audit.command}")
    if "sources" not in row:
        raise DataError(f"no row of {data} has a reference answer: name its column (evaluation.data.0.columns.answer)")
    return row
