"""`quorum doctor`: what this machine has, what is missing, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from quorum.errors import ConfigError

if TYPE_CHECKING:
    from orchestration.machine import Check

_MARKS = {"ok": "ok", "warn": "WARN", "missing": "MISSING"}
RESOURCE_EXIT, STAGE_EXIT = 4, 5
DTYPES = ("bfloat16", "float16", "float32")


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT", help="Ask this Ray cluster for its resources ('auto' finds one)."
        ),
    ] = None,
    determinism: Annotated[
        str | None,
        typer.Option(
            "--determinism",
            metavar="MODEL",
            help="Start one sampler of this model and compare tokens and logprobs of the same requests "
            "alone, in small and in large batches, bit by bit.",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="With --determinism: precision of the sampler, as rollout.dtype.")
    ] = "bfloat16",
) -> None:
    """Say what this machine can run, what is missing and how to get it. Exit code 0, or 4 when something is missing.

    With --determinism, exit code 0 means "tokens and logprobs reproducible" and 5 means "ledger exact, tokens not":
    runs of that model are then resumed from their record, but not repeated token for token.
    """
    if determinism is not None:
        _report_determinism(determinism, dtype)
        return
    from orchestration.machine import check_machine

    if not report(check_machine(address)):
        raise typer.Exit(RESOURCE_EXIT)


def report(checks: Iterable[Check]) -> bool:
    """Print each finding as it comes, with its fix; whether nothing is missing."""
    missing = warned = 0
    for check in checks:
        print(f"{_MARKS[check.status]:8} {check.name:16} {check.detail}")
        if check.status != "ok":
            print(f"{'':8} {'':16} fix: {check.fix}")
        missing += check.status == "missing"
        warned += check.status == "warn"
    if missing:
        print(f"\n{missing} missing, {warned} to look at: training cannot run here before the fixes above")
    else:
        print(f"\nReady: `quorum train demo` runs here{f' ({warned} to look at)' if warned else ''}.")
    return missing == 0


def _report_determinism(model: str, dtype: str) -> None:
    from orchestration.determinism import check

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: want one of {', '.join(DTYPES)}")
    verdict = check(model, dtype=dtype, say=lambda line: print(line, flush=True))
    for line in verdict.details:
        print(line)
    print(verdict.text)
    if not verdict.is_reproducible:
        raise typer.Exit(STAGE_EXIT)
