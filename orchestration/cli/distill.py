"""`quorum distill`: offline training on a run's stored groups."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quorum.errors import ConfigError

_Run = Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name under runs/.")]
_Out = Annotated[Path, typer.Option(help="Hugging Face directory to make.")]
_Model = Annotated[
    str | None,
    typer.Option(help="Start from this model; also the reference of dpo and scpo.  [default: the run's base model]"),
]
_MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Stop with the update that reaches so many tokens: equal compute.")
]
_NllWeight = Annotated[
    float, typer.Option(min=0.0, help="dpo, scpo: weight of the chosen completion's log-likelihood.")
]
_MinVotes = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="dpo, scpo: a group gives a pair where more than so many completions gave the chosen answer.  "
        "[default: 2 for scpo, 0 for dpo]",
    ),
]
_Steps = Annotated[
    str | None,
    typer.Option(metavar="A..B", help="Take the groups of steps A to B-1 alone.  [default: all closed steps]"),
]


def distill(
    run: _Run,
    method: Annotated[str, typer.Option(help="sft, dpo or scpo.")],
    out: _Out,
    model: _Model = None,
    epochs: Annotated[float, typer.Option(min=0.0, help="Passes over the examples.")] = 1.0,
    max_tokens: _MaxTokens = None,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Constant.")] = 1e-6,
    batch_size: Annotated[int, typer.Option(min=1, help="Completions (sft) or pairs per update.")] = 64,
    micro_batch_size: Annotated[int, typer.Option(min=1, help="Of them, in one forward pass.")] = 8,
    beta: Annotated[float, typer.Option(min=0.0, help="dpo, scpo: strength of the reference.")] = 0.1,
    nll_weight: _NllWeight = 1.0,
    min_votes: _MinVotes = None,
    steps: _Steps = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pairs and their order.")] = 0,
) -> None:
    """Train offline on the groups of a run, by their stored votes: the baselines that self-training is compared with.

    \b
    sft    supervised training on every completion that agrees with its group's pseudo-label
    dpo    pairs: a completion with the pseudo-label against one with the answer that fewest gave (arXiv 2305.18290)
    scpo   the same pairs, each weighted by (votes of the chosen - votes of the rejected) / k (arXiv 2411.04109)

    Groups whose answers all agree, or that elected nobody, give no pair; completions without an answer, or cut at the
    limit, are in none. Token ids go in as sampled. No reference answer is read. Trains in one process, with TRL
    (pip install quorum-srt[distill]).

    \b
    Examples:
      quorum distill runs/base-groups --method sft --out runs/sft --learning-rate 1e-5
      quorum distill runs/base-groups --method dpo --out runs/dpo --model runs/sft
      quorum distill runs/my-run --method scpo --out runs/scpo --max-tokens 20000000
      quorum eval runs/scpo test.jsonl

    Writes OUT with distill.json beside the weights: pairs, tokens, updates, seconds, and why groups gave nothing. The
    last line is a RESULT line.
    """
    _distill(
        run,
        out,
        method=method,
        model=model,
        learning_rate=learning_rate,
        batch_size=batch_size,
        micro_batch_size=min(micro_batch_size, batch_size),
        epochs=epochs,
        max_tokens=max_tokens,
        beta=beta,
        nll_weight=nll_weight,
        min_votes=min_votes,
        steps=_range(steps),
        seed=seed,
    )


def _distill(run: str, out: Path, **given: Any) -> None:
    from orchestration.cli.result import result_line
    from orchestration.distill import METHODS, DistillOptions
    from orchestration.distill import distill as run_distill
    from orchestration.run_dir import resolve_run

    if given["method"] not in METHODS:
        raise ConfigError(f"--method {given['method']}: there are {', '.join(METHODS)}")
    options = DistillOptions(**given)
    made = run_distill(resolve_run(run), out, options, say=lambda text: print(text, file=sys.stderr, flush=True))
    for reason, count in sorted(made.left_out.items()):
        print(f"{count:,} of {made.num_groups:,} groups gave nothing: {reason}")
    print(
        f"{made.method}: {made.num_examples:,} {'completions' if made.method == 'sft' else 'pairs'}, "
        f"{made.num_updates:,} updates, {made.num_tokens:,} tokens; loss {made.first_loss:.4g} to {made.last_loss:.4g}"
    )
    print(f"model: {made.path}")
    shown = ("method", "num_groups", "num_examples", "mean_weight", "num_updates", "num_tokens")
    figures = {name: getattr(made, name) for name in (*shown, "first_loss", "last_loss", "seconds")}
    print(result_line("distill", figures, seed=options.seed, repeats=1))


def _range(text: str | None) -> range | None:
    if text is None:
        return None
    first, dots, last = text.partition("..")
    if not dots or not first.isdigit() or not last.isdigit() or int(last) <= int(first):
        raise ConfigError(f"--steps {text}: expected A..B with A below B, as in 0..50")
    return range(int(first), int(last))
