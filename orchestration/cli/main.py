"""The `quorum` command. Each subcommand is one file, imported only when it is called, so that help is instant."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from quorum import __version__
from quorum.errors import ConfigError, QuorumError

COMMANDS = {
    "train": ("orchestration.cli.train:train", "Train a model on unlabeled prompts, or resume a run."),
    "submit": ("orchestration.cli.submit:submit", "Run it as a job of a Ray cluster; retried when its driver dies."),
    "status": ("orchestration.cli.status:status", "Show how submitted runs stand."),
    "logs": ("orchestration.cli.logs:logs", "Print or follow the log of a submitted run."),
    "stop": ("orchestration.cli.stop:stop", "End a submitted run, with a checkpoint."),
    "resume": ("orchestration.cli.resume:resume", "Go on with a submitted run that is over."),
    "scale": ("orchestration.cli.scale:scale", "Give a live run more or fewer samplers."),
    "top": ("orchestration.cli.top:top", "Watch a run live: samplers, learner, last metrics, alarms."),
    "eval": ("orchestration.cli.eval:evaluate", "Measure a model: avg@n, maj@n, pass@k with 95% intervals."),
    "data": ("orchestration.cli.data:app", "Prepare the papers' data sets; overlap with tests; subsets."),
    "label": ("orchestration.cli.label:label", "Make a table of pseudo-labels with any model."),
    "vote": ("orchestration.cli.vote:vote", "Vote again on stored rollouts and compare rules side by side."),
    "export": ("orchestration.cli.export:export", "Write a checkpoint of a run as a Hugging Face directory."),
    "replay": ("orchestration.cli.replay:replay", "Vote and learn stored steps again and compare, bit for bit."),
    "experiment": ("orchestration.cli.experiment:experiment", "Compare arms and seeds that share one base model."),
    "distill": ("orchestration.cli.distill:distill", "Train offline on stored groups: SFT, DPO or ScPO."),
    "report": ("orchestration.cli.report:report", "Write report.html of a run and print its summary."),
    "guard": ("orchestration.cli.guard:guard", "What the collapse guard makes of stored metrics."),
    "inspect": ("orchestration.cli.inspect:inspect", "Browse a run's rollouts in a local web page."),
    "plan": ("orchestration.cli.plan:plan", "Memory, balance and cost of a run before any GPU is taken."),
    "bench": ("orchestration.cli.bench:bench", "Reproduce a measured figure and print its RESULT line."),
    "doctor": ("orchestration.cli.doctor:doctor", "Say what this machine has, what is missing and the fix."),
}
"""Name -> (module:function, one line of help)."""

_EPILOG = """\b
Examples:
  quorum doctor                              what this machine can run
  quorum train demo                          a tiny model teaches itself addition
  quorum train my.yaml --dry-run             resolved configuration and plan
  quorum train my.yaml rollout.num_samplers=4 learner.learning_rate=1e-6
  quorum plan srt --gpus 8                   what fits, which split, how long a step
  quorum train --resume runs/my-run          go on after a crash, kill or Ctrl-C
  quorum submit my.yaml run.dir=/shared/runs/a --address http://HEAD:8265
                                             as a job of a Ray cluster
  quorum status; quorum logs a --follow; quorum stop a; quorum resume a
                                             submitted runs, by name
  quorum scale runs/my-run --samplers 8      more or fewer samplers for a live run
  quorum top runs/my-run                     who works and who waits, live
  quorum eval runs/my-run/model test.jsonl   avg@n and maj@n of the result
  quorum data prepare dapo aime24            prompts, and their references apart
  quorum label MODEL prompts.jsonl --n 32    a table of pseudo-labels to train on
  quorum vote runs/my-run --rule majority --rule soft,min_agreement=0.5
                                             what other rules would have made of it
  quorum export runs/my-run out --step 100   a checkpoint as a model to load
  quorum replay runs/my-run --steps 50..100  vote and learn again, bit for bit
  quorum distill runs/my-run --method dpo --out runs/dpo
                                             what offline training would make of it
  quorum report runs/my-run                  one self-contained HTML file
  quorum guard --replay runs/my-run          when would which detector have tripped
  quorum inspect runs/my-run                 its prompts and completions, in a browser

\b
Exit codes:
  0 ok   2 configuration   3 data   4 resources   1 unforeseen
  5 a stage failed (finished groups and the last checkpoint are kept), or a replay differs
  6 stopped by the guard (checkpoint saved)
  130 Ctrl-C, 143 SIGTERM (checkpoint saved)
"""

_show_traceback = False


class LazyGroup(TyperGroup):
    """Lists commands from `COMMANDS`; imports a command's module when it is resolved, not when it is listed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else command, rest


def load_command(name: str) -> Any:
    """The click command of one entry of `COMMANDS`, its functions guarded by `one_line_errors`."""
    module, _, function = COMMANDS[name][0].partition(":")
    with _Reported():
        target = getattr(importlib.import_module(module), function)
    plain: Any = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
    if isinstance(target, typer.Typer):
        group = typer.Typer(help=target.info.help, no_args_is_help=True, **plain)
        for command in target.registered_commands:
            assert command.callback is not None
            group.command(command.name)(one_line_errors(command.callback))
        return typer.main.get_command(group)
    single = typer.Typer(**plain)
    single.command(name)(one_line_errors(target))
    return typer.main.get_command(single)


def one_line_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its errors turned into one line on stderr and the exit code of their class."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with _Reported():
            return function(*args, **kwargs)

    return guarded


class _Reported:
    """Ends the command on an error: exit code of its class, no traceback unless asked for."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (SystemExit, typer.Exit, typer.Abort, typer.BadParameter)):
            return
        _end(error)


def _end(error: BaseException) -> NoReturn:
    if _show_traceback:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted")
        code = 130
    elif isinstance(error, QuorumError):
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        _say(f"error: {'configuration: ' if isinstance(error, ConfigError) else ''}{error}{notes}")
        code = error.exit_code
    else:
        _say(f"error: {_unforeseen(error)}")
        code = 1
    raise typer.Exit(code) from None


def _unforeseen(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, ModuleNotFoundError):
        return f"{text}; `quorum doctor` says what is missing and how to install it (--traceback shows where)"
    return f"unforeseen {type(error).__name__}: {text} (--traceback shows where)"


def _say(text: str) -> None:
    print(f"quorum: {text}", file=sys.stderr, flush=True)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quorum {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="quorum",
    cls=LazyGroup,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of an error; works after the command too.")
    ] = False,
) -> None:
    """Self-rewarded training of reasoning language models: no labels, majority votes, RL on Ray, vLLM and DeepSpeed.

    Samplers (vLLM) draw k completions per prompt, a vote elects a pseudo-label, agreement with it is the reward,
    ZeRO learners (DeepSpeed) update the policy, and the new weights go back to the samplers. All actors run on Ray.
    """


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the console script and of `python -m orchestration`. Exits with the command's code."""
    global _show_traceback
    words = list(sys.argv[1:] if arguments is None else arguments)
    _show_traceback = "--traceback" in words
    app([word for word in words if word != "--traceback"], prog_name="quorum")
