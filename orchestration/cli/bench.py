"""`quorum bench`: reproduce a measured figure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorum.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.results import BenchResult

BENCHES = {
    "elastic": "samplers join and leave a live run; what stopping decided votes saves",
    "learn": "one training step at three sizes, beside TRL's trainer",
    "pipeline": "a whole step against bare vLLM plus a bare training loop; --schedule: strict against overlapped "
    "steps; --against trl: against TRL's GRPOTrainer",
    "rollout": "tokens and completions per second of 1, 2 and 4 real samplers; --samplers, --model",
    "scale": "groups per second and the controller's CPU with 1 to 1,024 simulated samplers",
    "startup": "a cold start of quorum train to its first update, by phase",
    "sync": "weights of 10 to 200 MB to 1, 2 and 4 receivers beside a plain Gloo broadcast, and to engines whose "
    "completions go on; with --repeats 3 or more also 1 and 2 GB, and 4 engines",
    "vote": "answers per second by equivalence, beside a plain loop over math-verify, with answers that hang, and in "
    "the demo",
}
"""Name -> what it measures. `benchmarks.NAME.run_NAME(repeats, seed[, options])` returns its BenchResult. Where options
decide what is measured, `benchmarks.NAME.workload_of([options])` is the result's workload."""
PEERS = {"trl": "pipeline"}
"""What `--against` takes beside a file: another trainer, measured in the same run by the module NAME_PEER."""
LIST_WIDTH = 78
WORSE_EXIT = 5
"""A figure is worse than its baseline by more than the tolerance."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A bench as the command's words choose it."""

    bench: str
    """As its results are named."""
    run: Callable[..., Any]
    workload_of: Callable[..., Mapping[str, object]]
    """By the options of `run` besides `keep`."""


def bench(
    name: Annotated[str, typer.Argument(help="One of those listed above.")],
    repeats: Annotated[int, typer.Option(min=1, help="Measured pairs, after one that warms up.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and tokens.")] = 0,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="pipeline: strict against overlapped, with simulated times.")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|trl",
            help="A result stored with --json: fail when a figure is worse by more than --tolerance. "
            "pipeline: trl measures TRL's GRPOTrainer beside it. Can be given twice.",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Percent by which a figure may be worse.")] = 10.0,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Store the result, all repeats and the machine here.")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="pipeline --against trl: spread (default) or short.")] = None,
    samplers: Annotated[
        str | None, typer.Option(metavar="N,N...", help="rollout: numbers of samplers; 1,2,4 if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            help="rollout: qwen2.5-0.5b to 72b, llama-3.1-8b, qwen3-14b or tiny, with random weights; "
            "a model of 3.2 M parameters if left out.",
        ),
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep model, prompts and run directory here.")] = None,
) -> None:
    """Measure on this machine and print a table and a RESULT line with machine and versions; then what --against says.

    Both sides of a comparison alternate in one run, and medians of the paired ratios are reported: seconds
    alone say little on a machine that other work shares.
    """
    peers, files = _split(against or [])
    chosen = _bench(name, schedule, peers)
    given = {"workload": workload, "samplers": _numbers(samplers), "model": model, "keep": keep}
    options = _options(name, chosen.run, given)
    baselines = _baselines(files, chosen, seed, options)
    if json is not None:
        _check_writable(json)
    result: BenchResult = chosen.run(repeats, seed, **options)
    for line in result.table():
        print(line)
    print(result, flush=True)
    if json is not None:
        from benchmarks.results import write_result

        write_result(json, result)
    is_worse = [_compare(path, baseline, result, tolerance / 100) for path, baseline in baselines.items()]
    if any(is_worse):
        raise typer.Exit(WORSE_EXIT)


def _list_of_benches() -> str:
    """A paragraph for `--help`, kept line by line; as deep as the docstring that it is added to."""
    lines = ["\b", "Benches:"]
    for name, what in BENCHES.items():
        lines += wrap(f"{name:<9} {what}", LIST_WIDTH, initial_indent="  ", subsequent_indent=" " * 12)
    return "\n".join(f"    {line}" for line in lines)


bench.__doc__ = f"{bench.__doc__}\n{_list_of_benches()}\n"


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--samplers {text}: expected numbers, as in 1,2,4") from None


def _split(against: list[str]) -> tuple[list[str], list[Path]]:
    """Peers, and files."""
    return [word for word in against if word in PEERS], [Path(word) for word in against if word not in PEERS]


def _bench(name: str, schedule: bool, peers: list[str]) -> _Chosen:
    """The bench of that name."""
    if name not in BENCHES:
        raise ConfigError(f"no benchmark {name!r}; there are: {', '.join(BENCHES)}")
    if schedule and name != "pipeline":
        raise ConfigError(f"--schedule belongs to `quorum bench pipeline`, not to {name}")
    if schedule and peers:
        raise ConfigError("--schedule measures our two schedules; --against trl is a bench of its own: leave one out")
    for peer in peers:
        if name != PEERS[peer]:
            raise ConfigError(f"--against {peer} belongs to `quorum bench {PEERS[peer]}`, not to {name}")
    words = [name, "schedule"] if schedule else [name, *peers[:1]]
    base = "schedule" if schedule else "_".join(words)
    module = import_module(f"benchmarks.{base}")
    return _Chosen("-".join(words), getattr(module, f"run_{base}"), getattr(module, "workload_of", dict))


def _options(name: str, run: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were given, all of which the bench must take; `keep` is passed whether given or not."""
    taken = signature(run).parameters
    wrong = [f"--{option}" for option, value in given.items() if value is not None and option not in taken]
    if wrong == ["--keep"]:
        raise ConfigError(f"`quorum bench {name}` leaves nothing to keep; drop --keep")
    if wrong:
        takers = [taker for option in wrong if (taker := _takers(option.removeprefix("--")))]
        hint = f"; {', '.join(takers)}" if takers else ""
        raise ConfigError(f"`quorum bench {name}`, called like this, does not take {', '.join(wrong)}{hint}")
    return {o: value for o, value in given.items() if o in taken and (value is not None or o == "keep")}


def _takers(option: str) -> str:
    """Which benches take an option, in words; empty where none does."""
    ways = {name: _bench(name, False, []) for name in BENCHES}
    ways |= {f"{name} --against {peer}": _bench(name, False, [peer]) for peer, name in PEERS.items()}
    found = [f"`quorum bench {words}`" for words, way in ways.items() if option in signature(way.run).parameters]
    return f"--{option} belongs to {' and '.join(found)}" if found else ""


def _check_writable(path: Path) -> None:
    """Before anything is measured. Leaves no file that was not there."""
    was_there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not was_there:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"--json {path}: cannot be written ({error.strerror}); nothing was measured") from error


def _baselines(files: list[Path], chosen: _Chosen, seed: int, options: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """Read before anything is measured: one that is not there, or measured something else, is said at once."""
    from benchmarks.baseline import check_workload, read_baseline

    baselines = {path: read_baseline(path) for path in files}
    named = chosen.workload_of(**{name: value for name, value in options.items() if name != "keep"})
    for path, baseline in baselines.items():
        check_workload(baseline, chosen.bench, {**named, "seed": seed}, path)
    return baselines


def _compare(path: Path, baseline: dict[str, Any], result: BenchResult, tolerance: float) -> bool:
    """Print the comparison; whether a figure is worse by more than the tolerance."""
    from benchmarks.baseline import compare, describe

    now = result.document()
    rows = compare(baseline, now, tolerance)
    print(f"against {path}, tolerance {tolerance:.0%}:")
    for line in describe(baseline, now, rows):
        print(line)
    worse = [row.name for row in rows if row.is_worse]
    if worse:
        print(f"quorum: worse than {path} by more than {tolerance:.0%}: {', '.join(worse)}", file=sys.stderr)
    return bool(worse)
