"""`quorum eval`: measure a model on held-out data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from quorum.errors import ConfigError


def evaluate(
    model: Annotated[str, typer.Argument(help="Hugging Face directory or hub name, e.g. runs/my-run/model.")],
    data: Annotated[
        str, typer.Argument(help="JSONL, Parquet, datasets directory, hub name or reasoning_gym:TASK, with answers.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value, e.g. voting.extractor=last_number")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Completions per prompt: the n of avg@n and maj@n.")] = 16,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Sampling temperature; repeat for several, 0 is greedy.  [default: 1.0]")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Preset or YAML file to take prompt suffix, limits, voting and sampler settings from, "
            "e.g. runs/my-run/config.yaml."
        ),
    ] = "eval",
    out: Annotated[
        Path | None, typer.Option(help="Directory for groups and scores.  [default: runs/eval-TIME]")
    ] = None,
) -> None:
    """Score a model: avg@n, maj@n and unbiased pass@k with 95% bootstrap intervals, per data source and on average.

    Completions are drawn by the same samplers as in training, with the same seeds each time; the groups are kept
    as Parquet beside the scores. The last line is a RESULT line.
    """
    temperatures = temperature or [1.0]
    if any(value < 0 for value in temperatures):
        raise ConfigError(f"--temperature {min(temperatures):g}: want 0 (greedy) or more")
    from orchestration.cli.result import result_line
    from orchestration.evaluate_model import evaluate as run_evaluation
    from orchestration.watch.evaluate import score_table

    where = out or Path("runs") / time.strftime("eval-%Y%m%d-%H%M%S")
    result = run_evaluation(
        model,
        data,
        temperatures=temperatures,
        num_completions=n,
        out=where,
        preset=preset,
        overrides=overrides or (),
    )
    for value, row in result.scores.items():
        print(f"temperature {value:g}" if value else "greedy")
        print(score_table(row))
    print(f"groups and scores: {result.path}")
    figures = {f"temperature_{value:g}": row for value, row in result.scores.items()}
    print(result_line("eval", figures, seed=result.seed, repeats=1))
