"""`quorum label`: make a table of pseudo-labels with any model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from quorum.errors import ConfigError


def label(
    model: Annotated[str, typer.Argument(help="Hugging Face directory or hub name of the model that answers.")],
    data: Annotated[
        str, typer.Argument(help="Prompts: JSONL, Parquet, datasets directory, hub name or reasoning_gym:TASK.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value, e.g. voting.extractor=last_number")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Completions per prompt that vote.")] = 32,
    temperature: Annotated[float, typer.Option(help="Sampling temperature, above 0.")] = 1.0,
    preset: Annotated[
        str,
        typer.Option(help="Preset or YAML file to take prompt suffix, limits, voting and sampler settings from."),
    ] = "eval",
    out: Annotated[
        Path | None, typer.Option(help="Directory for groups and table.  [default: runs/label-TIME]")
    ] = None,
) -> None:
    """Answer every prompt n times, vote, and write OUT/labels.parquet: prompt_id, label, agreement and more.

    Where the data has references, OUT/audit/pass_rates.parquet says how many answers of each prompt were right; it is
    made after the vote, and no label depends on it. Both choose easier or harder parts: quorum data subset.

    Train on it with voting.labels.name=table voting.labels.options.path=OUT/labels.parquet and the same data. The
    last line is a RESULT line.
    """
    if temperature <= 0:
        raise ConfigError(f"--temperature {temperature:g}: want more than 0; greedy completions would all be equal")
    from orchestration.cli.result import result_line
    from orchestration.label_model import label as run_labelling

    where = out or Path("runs") / time.strftime("label-%Y%m%d-%H%M%S")
    result = run_labelling(
        model, data, num_completions=n, temperature=temperature, out=where, preset=preset, overrides=overrides or ()
    )
    print(f"{result.num_labels:,} of {result.num_prompts:,} prompts have a label: {result.path}")
    if result.pass_rates is not None:
        print(f"pass rates against the references, for the audit alone: {result.pass_rates}")
    figures = {
        "num_prompts": result.num_prompts,
        "num_labels": result.num_labels,
        "agreement_mean": result.agreement_mean,
    }
    print(result_line("label", figures, seed=result.seed, repeats=1))
