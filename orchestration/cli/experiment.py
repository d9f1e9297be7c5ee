"""`quorum experiment`: arms and seeds that share one base model, compared."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quorum.errors import ConfigError

if TYPE_CHECKING:
    from configs.experiment import ExperimentConfig
    from orchestration.experiments.arms import ArmRun
    from orchestration.experiments.matrix import Cell
    from orchestration.experiments.runner import Outcome


def experiment(
    name: Annotated[str | None, typer.Argument(help="Shipped experiment (--list names them) or YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value of every arm.")] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Runs of each arm.  [default: the file's]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory of runs and results.  [default: runs/experiments/NAME]")
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Start samplers and ranks anew for every run.")] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write figure, table and summary to docs/results.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the runs, start nothing.")
    ] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Name the shipped experiments.")] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="http://HEAD:8265 of a cluster: runs become jobs of it.")
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="--address: jobs that run together.")] = 1,
    working_dir: Annotated[
        str, typer.Option("--working-dir", help="--address: uploaded for all nodes, or `none`.")
    ] = ".",
    check: Annotated[
        str | None, typer.Option("--check", metavar="RUN", help="Compare a run with the paper's numbers for --preset.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="--check: whose numbers.")] = None,
) -> None:
    """Run a comparison: several arms and seeds on one base model, measured alike; then its figure and table.

    Runs that are done are left alone and begun ones go on, so the same command continues after Ctrl-C. A run that fails
    holds up no other; the exit code is then its own. The last line is a RESULT line with every figure that is decided.
    """
    if list_all:
        _list()
        return
    if check is not None:
        _check(check, preset)
        return
    if name is None:
        raise ConfigError("nothing to run: name an experiment (--list shows them) or a YAML file")
    from configs.experiment import load_experiment
    from orchestration.experiments.arms import arm_runs, directory_of
    from orchestration.experiments.figures import FIGURES
    from orchestration.experiments.runner import run_all

    found, loaded = load_experiment(name, FIGURES, overrides=overrides or (), seeds=seeds)
    runs = arm_runs(found, loaded, out)
    root = directory_of(found, out)
    if dry_run:
        _print_runs(loaded, runs)
        return
    if address is not None:
        outcomes = _on_cluster(found, loaded, runs, address, at_once, working_dir)
    else:
        outcomes = run_all(runs, _say, is_warm=not cold)
    others: list[Cell] = []
    if all(outcome.is_done for outcome in outcomes) and address is None:
        from orchestration.experiments.matrix import measure_others

        others = measure_others(loaded, runs, root, _say)
    _write(found, loaded, runs, root, others, publish=publish)
    _end(outcomes)


def _list() -> None:
    from configs.experiment import experiment_names, load_experiment
    from orchestration.experiments.figures import FIGURES

    for name in experiment_names():
        _, loaded = load_experiment(name, FIGURES)
        print(f"{name:20} {loaded.title} ({', '.join(loaded.arms)}; decides {', '.join(loaded.figures) or 'nothing'})")


def _print_runs(loaded: ExperimentConfig, runs: list[ArmRun]) -> None:
    from orchestration.experiments.estimate import seconds_per_step

    print(loaded.title)
    per_step = seconds_per_step(runs)
    total, is_known = 0.0, True
    for run in runs:
        standing, steps = run.standing(), run.config.run.num_steps
        seconds = None if per_step is None else steps * per_step
        shown = "?" if seconds is None else f"{seconds:,.0f} s"
        print(f"  {run.arm:16} seed {run.seed}  {steps:6,} steps  {shown:>10}  {standing:6} {run.path}")
        is_known, total = seconds is not None, total + (0.0 if standing == "done" else seconds or 0.0)
    left = f"{total:,.0f} s" if is_known else "not known: no run of it has measured a step yet"
    print(f"left to run, by the steps measured so far: {left}")


def _on_cluster(
    name: str, loaded: ExperimentConfig, runs: list[ArmRun], address: str, at_once: int, working_dir: str
) -> list[Outcome]:
    from orchestration.cli.submit import uploaded
    from orchestration.experiments.queue import run_on_cluster
    from orchestration.jobs.client import Jobs

    where = uploaded(working_dir)
    return run_on_cluster(name, loaded, runs, Jobs(address), _say, at_once=at_once, working_dir=where)


def _write(
    name: str, loaded: ExperimentConfig, runs: list[ArmRun], root: Path, others: list[Cell], *, publish: bool
) -> None:
    from orchestration.cli.result import machine, result_line
    from orchestration.experiments.publish import publish as publish_results
    from orchestration.experiments.report import markdown, write
    from orchestration.experiments.results import gather

    words = [word for word in sys.argv[1:] if word not in ("--publish", "--traceback")]
    command = shlex.join(["quorum", *words])
    results = gather(name, loaded, runs, command=command, machine=machine(), others=others)
    written = write(results, root)
    written += publish_results(results, len(runs)) if publish else []
    print(markdown(results))
    print("\n".join(f"wrote {path}" for path in written))
    values = {"experiment": name, "config_hash": results.origin.config_hash, "commit": results.origin.commit}
    print(result_line("experiment", values | results.figures, seed=0, repeats=loaded.seeds), flush=True)


def _end(outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        print(f"quorum: failed: {outcome.run.name}: {outcome.error}", file=sys.stderr)
    if failed and failed[0].error is not None:
        raise typer.Exit(failed[0].error.exit_code)


def _check(run: str, preset: str | None) -> None:
    if preset is None:
        raise ConfigError("--check compares with the numbers of a preset: name it with --preset")
    try:
        from orchestration.experiments.targets import check_targets, load_targets, read_run_rows
    except ModuleNotFoundError as error:
        raise ConfigError("this version has no table of the paper's numbers to check against") from error
    from orchestration.run_dir import resolve_run

    known = load_targets()
    if preset not in known:
        raise ConfigError(f"--preset {preset}: the paper's numbers are known for {', '.join(known)}")
    if known[preset].why_none:
        raise ConfigError(f"--preset {preset} has no numbers: {known[preset].why_none}")
    checks = check_targets(read_run_rows(resolve_run(run)), known[preset].targets)
    for one in checks:
        print(one.sentence)
    if any(one.status != "met" for one in checks):
        raise typer.Exit(1)


def _say(text: str) -> None:
    print(f"quorum: {text}", file=sys.stderr, flush=True)
