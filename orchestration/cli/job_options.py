"""Options that several commands on submitted runs have."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str | None, typer.Option("--address", help="http://HEAD:8265 of the cluster; by default RAY_ADDRESS.")
]
Retries = Annotated[
    int, typer.Option("--retries", min=0, help="How often a driver that died goes on from its last checkpoint.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return once the job is submitted.")]
DriverCpus = Annotated[
    float, typer.Option("--driver-cpus", min=0, help="For the driver: with any it may be on every node.")
]
