"""`quorum report`: write a run's report again and say what happened."""

from __future__ import annotations

from typing import Annotated

import typer


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run directory, its name under runs/, or a submitted run's name.")
    ],
    between: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="STEP STEP",
            help="Compare the prompts of these two evaluations, named by the steps done before each.  "
            "[default: the first and the last]",
        ),
    ] = None,
) -> None:
    """Write report.html of a run (finished, killed or still going) and print its summary.

    The report is one self-contained file: plots, configuration, sample groups before and after, and prompts
    that went from correct to wrong and back. Needs no Ray, torch or vLLM.
    """
    from orchestration.jobs.lookup import run_directory
    from orchestration.watch.report import story, write_report

    path = run_directory(run)
    written = write_report(path, between)
    print(story(path, between))
    print(f"report: {written}")
