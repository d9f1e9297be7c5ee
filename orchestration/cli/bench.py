"""`quorum bench`: reproduce a measured figure."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from quorum.errors import ConfigError

BENCHES = {
    "elastic": "samplers join and leave a live run; what stopping decided votes saves",
    "learn": "one training step at three sizes, beside TRL's trainer",
    "pipeline": "a whole step against bare vLLM plus a bare training loop; --schedule: strict against overlapped steps",
    "scale": "groups per second and the controller's CPU with 1 to 1,024 simulated samplers",
    "sync": "weights of 10 to 200 MB to 1, 2 and 4 receivers beside a plain Gloo broadcast, and to engines whose "
    "completions go on; with --repeats 3 or more also 1 and 2 GB, and 4 engines",
    "vote": "answers per second by equivalence, beside a plain loop over math-verify, with answers that hang, and in "
    "the demo",
}
"""Name -> what it measures. `benchmarks.NAME.run_NAME(repeats, seed[, keep])` returns its RESULT line."""


def bench(
    name: Annotated[str, typer.Argument(help=". ".join(f"{name}: {what}" for name, what in BENCHES.items()) + ".")],
    repeats: Annotated[int, typer.Option(min=1, help="Measured pairs, after one that warms up.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and tokens.")] = 0,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="pipeline: strict against overlapped, with simulated times.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep model, prompts and run directory here.")] = None,
) -> None:
    """Measure on this machine and print a RESULT line with machine and versions.

    Both sides of a comparison alternate in one run, and medians of the paired ratios are reported: seconds
    alone say little on a machine that other work shares.
    """
    if name not in BENCHES:
        raise ConfigError(f"no benchmark {name!r}; there are: {', '.join(BENCHES)}")
    if schedule and name != "pipeline":
        raise ConfigError(f"--schedule belongs to `quorum bench pipeline`, not to {name}")
    module = "schedule" if schedule else name
    run = getattr(import_module(f"benchmarks.{module}"), f"run_{module}")
    if "keep" in signature(run).parameters:
        print(run(repeats, seed, keep))
        return
    if keep is not None:
        raise ConfigError(f"`quorum bench {name}` leaves nothing to keep; drop --keep")
    print(run(repeats, seed))
