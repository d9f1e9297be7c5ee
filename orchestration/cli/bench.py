"""`quorum bench`: reproduce a measured figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quorum.errors import ConfigError

BENCHES = {
    "learn": "the learner's step against TRL's, and against what matrix products alone would take",
    "pipeline": "a whole step against bare vLLM plus a bare training loop",
    "vote": "answers per second by equivalence, and what one that hangs costs",
}


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="learn: one training step at three sizes beside TRL's trainer. pipeline: a whole step against bare "
            "vLLM plus a bare training loop. vote: answers per second by equivalence, beside a plain loop over "
            "math-verify, with answers that hang, and in the demo."
        ),
    ],
    repeats: Annotated[int, typer.Option(min=1, help="Measured pairs, after one that warms up.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and tokens.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Keep model, prompts and run directory here.")] = None,
) -> None:
    """Measure on this machine and print a RESULT line with machine and versions.

    Both sides of a comparison alternate in one run, and medians of the paired ratios are reported: seconds
    alone say little on a machine that other work shares.
    """
    if name not in BENCHES:
        raise ConfigError(f"no benchmark {name!r}; there are: {', '.join(BENCHES)}")
    if name == "learn":
        from benchmarks.learn import run_learn

        print(run_learn(repeats, seed))
        return
    if name == "vote":
        from benchmarks.vote import run_vote

        print(run_vote(repeats, seed))
        return
    from benchmarks.pipeline import run_pipeline

    print(run_pipeline(repeats, seed, keep))
