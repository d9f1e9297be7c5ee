"""`quorum guard`: what the collapse guard makes of stored metrics, and which checkpoint it would pick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quorum.errors import ConfigError

_Source = Annotated[
    str | None,
    typer.Option(
        "--replay",
        metavar="METRICS",
        help="A run (directory, or name under runs/), its metrics.jsonl, or a CSV or JSONL file of curves with a "
        "column step.",
    ),
]
_Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="METRIC=COLUMN", help="What the file calls a metric; repeat for several."),
]
_Config = Annotated[
    str | None,
    typer.Option(
        help="Preset or YAML file whose guard section says which detectors and thresholds.  [default: the "
        "run's own, or those that ship]"
    ),
]


def guard(
    replay: _Source = None,
    pick: Annotated[
        str | None, typer.Option(metavar="RUN", help="Rank a run's evaluated steps by eval/health, without labels.")
    ] = None,
    column: _Columns = None,
    config: _Config = None,
) -> None:
    """Give stored metrics to the collapse guard, or pick a run's checkpoint without labels.

    Prints the step at which each detector trips first. Where the metrics hold eval/average_accuracy, which the guard
    itself never sees, also how many steps before the accuracy had lost a tenth of its peak. The last line is RESULT
    with a JSON object.
    """
    if (replay is None) == (pick is None):
        raise ConfigError("say what to do: --replay METRICS, or --pick RUN")
    if replay is not None:
        _replay(replay, column or [], config)
    elif pick is not None:
        _pick(pick)


def _replay(source: str, columns: list[str], config: str | None) -> None:
    from configs.schema import GuardSection
    from orchestration.cli.result import result_line
    from orchestration.registries import load_run_config
    from orchestration.run_dir import read_config, resolve_run
    from orchestration.watch.guard.replay import read_source, replay

    path = Path(source) if Path(source).is_file() else resolve_run(source)
    section = GuardSection()
    if config is not None:
        section = load_run_config(config).guard
    elif path.is_dir():
        section = read_config(path).guard
    found = replay(read_source(path, dict(map(_pair, columns))), section.detectors, section.alarm_at)
    print(found.table())
    print(result_line("guard", found.figures(), seed=0, repeats=1))


def _pair(text: str) -> tuple[str, str]:
    metric, found, name = text.partition("=")
    if not (metric and found and name):
        raise ConfigError(f"--column {text}: expected METRIC=COLUMN, for example vote/reward_mean=reward")
    return name, metric


def _pick(run: str) -> None:
    from orchestration.checkpoint import checkpoint_steps
    from orchestration.cli.result import result_line
    from orchestration.run_dir import resolve_run
    from orchestration.watch.guard.replay import pick

    path = resolve_run(run)
    ranked = pick(path)
    kept = set(checkpoint_steps(path))
    print("steps done  eval/health  checkpoint")
    for step, health in ranked[:10]:
        print(f"{step:10,}  {health:11.4f}  {'kept' if step in kept else ''}")
    best = next((step for step, _ in ranked if step in kept), None)
    print("no checkpoint of these is kept" if best is None else f"quorum export {path} OUT --step {best}")
    figures = {"best_step": ranked[0][0], "best_kept_step": best, "health": ranked[0][1]}
    print(result_line("guard_pick", figures, seed=0, repeats=1))
