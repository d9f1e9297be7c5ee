"""`quorum export`: a checkpoint as a model that transformers and vLLM load."""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name under runs/.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory to make: weights, configuration, tokenizer.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.field=value of where the ranks run, e.g. cluster.device=cpu")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", min=1, help="Steps done when it was saved.  [default: the newest]")
    ] = None,
) -> None:
    """Write any checkpoint that a run keeps (checkpoints/) as a Hugging Face directory.

    Starts the run's learner ranks, which load it with its hashes compared, and no samplers.
    """
    from orchestration.export_model import export as run_export

    state = run_export(run, out, step=step, overrides=overrides or ())
    print(f"the policy after {state.step} steps: {out}")
