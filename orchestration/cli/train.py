"""`quorum train`: start a run, or continue one."""

from __future__ import annotations

from typing import Annotated

import typer


def train(
    config: Annotated[
        str | None, typer.Argument(help="Preset name (demo, srt) or YAML file. Left out with --resume.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="section.field=value, e.g. learner.learning_rate=1e-6 data.train.0.path=p.jsonl"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="RUN", help="Go on with this run (path, or name under runs/). Overrides may follow."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, print resolved configuration and resource plan, start nothing."
        ),
    ] = False,
) -> None:
    """Train a model on unlabeled prompts: it answers k times, the majority is the label, agreement the reward.

    Writes a run directory (run.dir): groups as Parquet, metrics, checkpoints, audit, model/ and report.html.
    Ends with what happened, in words, and a RESULT line. Ctrl-C or SIGTERM saves a checkpoint first.
    """
    words = list(overrides or [])
    if config is not None and "=" in config:
        # `quorum train --resume RUN section.field=value` has no CONFIG argument.
        words, config = [config, *words], None
    if dry_run:
        _print_plan(config, words, resume)
        return
    from orchestration.cli.result import result_line
    from orchestration.start_times import StartTimes
    from orchestration.training import train as run_training
    from orchestration.watch.report import story

    result = run_training(config, words, resume=resume, times=StartTimes.of_process())
    print(story(result.path))
    print(result_line("train", result.figures(), seed=result.seed, repeats=1))


def _print_plan(config: str | None, overrides: list[str], resume: str | None) -> None:
    from configs.load import dump_config
    from orchestration.preflight import preflight
    from orchestration.resume import config_of_run

    resolved, path = config_of_run(config, overrides, resume)
    checked = preflight(resolved, new_run=path is None)
    print(dump_config(resolved))
    print("# resource plan")
    for line in checked.plan.describe():
        print(f"#   {line}")
    dropped = f", {checked.train.num_dropped_too_long:,} too long" if checked.train.num_dropped_too_long else ""
    print(f"#   prompts          {len(checked.train.prompts):,} to train on{dropped}")
    prompts, k = resolved.rollout.prompts_per_step, resolved.rollout.completions_per_prompt
    most = prompts * k * resolved.rollout.max_completion_tokens
    print(f"#   per step         {prompts} prompts x {k} = {prompts * k:,} completions, at most {most:,} tokens")
