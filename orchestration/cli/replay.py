"""`quorum replay`: vote and learn stored steps again, and compare with what the run came to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorum.errors import ConfigError

if TYPE_CHECKING:
    from orchestration.replay import Replay, StepReplay

DIFFERENT_EXIT = 5
_SHOWN = ("loss", "grad_norm", "entropy_mean", "kl_mean", "num_tokens")
"""learn/* metrics of the table."""


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name under runs/.")],
    step: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Replay step N, from the checkpoint after N steps (0: base).")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N..M",
            help="Replay steps N to M-1: from the checkpoint after N steps to that after M. N.. goes on to the next "
            "checkpoint.",
        ),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,OPTION=VALUE...]", help="Learn with another advantage estimator, as learner.algorithm."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Learn or vote with another setting; repeatable."),
    ] = None,
) -> None:
    """Vote and learn again from a checkpoint and the stored groups, and compare with the run. Generates nothing.

    Left as it was, votes, update figures and (where the next checkpoint is at the end) all weights must be equal bit
    for bit: exit code 0, or 5 where anything differs, with what it is. With --algorithm, or with a --set that changes
    what is learned, the figures of both are shown side by side and the weights are not compared.

    \b
    Examples:
      quorum replay runs/my-run --step 0                 the first step, from the base model
      quorum replay runs/my-run --steps 50..             from the checkpoint after 50 steps to the next one
      quorum replay runs/my-run --steps 50..60 --algorithm grpo
      quorum replay runs/my-run --step 50 --set learner.learning_rate=1e-5 --set voting.elect.min_agreement=0.5

    Nothing in the run directory is changed. Where the labels came from a jury (voting.labels), its stored answers are
    counted again but not read again. The last line is a RESULT line.
    """
    first, last = _span_of(step, steps)
    overrides = [*([_algorithm(algorithm)] if algorithm else []), *(settings or [])]
    from orchestration.cli.result import result_line
    from orchestration.replay import replay as run_replay
    from orchestration.replay_span import find_span, replay_config
    from orchestration.run_dir import resolve_run
    from orchestration.signals import StopSignals

    path = resolve_run(run)
    config, changed = replay_config(path, overrides)
    span = find_span(path, first, last)
    with StopSignals():
        made = run_replay(path, config, changed, span, say=lambda text: print(text, file=sys.stderr, flush=True))
    print("\n".join(_table(made)))
    print(_verdict(made))
    print(result_line("replay", _figures(made), seed=config.run.seed, repeats=1))
    if not made.changed and not made.is_equal:
        raise typer.Exit(DIFFERENT_EXIT)


def _span_of(step: int | None, steps: str | None) -> tuple[int, int | None]:
    if (step is None) == (steps is None):
        raise ConfigError("say which steps to replay: either --step N or --steps N..M")
    if step is not None:
        return step, step + 1
    first, dots, last = (steps or "").partition("..")
    if not dots or not first.isdigit() or not (last.isdigit() or last == ""):
        raise ConfigError(f"--steps {steps}: expected N..M or N.., as in 50..60")
    return int(first), int(last) if last else None


def _algorithm(text: str) -> str:
    """`grpo,option=value` as an override of learner.algorithm."""
    from configs.yaml_text import YamlError, read_yaml
    from orchestration.revote import split_options

    name, *parts = [part.strip() for part in split_options(text)]
    if not name or "=" in name:
        raise ConfigError(f"--algorithm {text}: it starts with a name, as in grpo or rloo,option=value")
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--algorithm {text}: expected option=value, got {part!r}")
        try:
            options[key.strip()] = read_yaml(value) if value.strip() else ""
        except YamlError as error:
            raise ConfigError([f"--algorithm {text}: {key}: {problem}" for problem in error.problems]) from error
    return f"learner.algorithm={json.dumps({'name': name, 'options': options})}"


def _table(made: Replay) -> Iterator[str]:
    yield "step  groups  kept  votes that differ          " + "  ".join(f"{name:>22}" for name in _SHOWN)
    for step in made.steps:
        votes = ", ".join(f"{count} {part}" for part, count in step.votes.differing.items() if count) or "none"
        cells = "  ".join(f"{_pair(step, f'learn/{name}'):>22}" for name in _SHOWN)
        yield f"{step.step:4}  {step.votes.num_groups:6}  {step.votes.num_kept:4}  {votes:25}  {cells}"


def _pair(step: StepReplay, name: str) -> str:
    """The run's figure and the replay's, or one of them where they are the same number."""
    before, after = step.before.get(name), step.after.get(name)
    if after is None:
        return "-"
    if before is None or before == after:
        return f"{after:.6g}" + (" =" if before is not None else "")
    return f"{before:.6g} > {after:.6g}"


def _verdict(made: Replay) -> str:
    span = made.span
    where = f"steps {span.first} to {span.last - 1}" if span.last - span.first > 1 else f"step {span.first}"
    if made.changed:
        return f"{where}: changed on purpose ({', '.join(made.changed)}); weights {made.weights_hash} are not compared"
    differing = [f"{', '.join(step.differing)} of step {step.step}" for step in made.steps if step.differing]
    differing += [f"votes of step {step.step}" for step in made.steps if not step.votes.is_equal]
    if made.differing_tensors is None:
        weights = f"weights {made.weights_hash}: no checkpoint after {span.last} steps to compare with"
    elif made.differing_tensors:
        count = len(made.differing_tensors)
        differing.append(f"{count} of {made.num_tensors} tensors, first {made.differing_tensors[0]}")
        weights = f"weights {made.weights_hash} are not those of the checkpoint after {span.last} steps"
    else:
        weights = f"weights {made.weights_hash}: all {made.num_tensors} tensors equal the checkpoint's"
    if made.is_equal:
        silent = [str(step.step) for step in made.steps if not step.before]
        figures = f" (the run logged none of step {', '.join(silent)})" if silent else ""
        return f"{where}: EQUAL: votes, rewards and update figures are the run's{figures}; {weights}"
    return f"{where}: DIFFERENT in {'; '.join(differing)}; {weights}"


def _figures(made: Replay) -> dict[str, object]:
    return {
        "first_step": made.span.first,
        "last_step": made.span.last,
        "changed": list(made.changed),
        "equal": made.is_equal if not made.changed else None,
        "weights_hash": made.weights_hash,
        "weights_compared": made.differing_tensors is not None,
        "num_tensors": made.num_tensors,
        "num_differing_tensors": len(made.differing_tensors or ()),
        "num_differing_votes": sum(sum(step.votes.differing.values()) for step in made.steps),
        "num_updates": sum(step.stats.num_updates for step in made.steps),
        "num_tokens": sum(step.stats.num_tokens for step in made.steps),
        "seconds": made.seconds,
    }
