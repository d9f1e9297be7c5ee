"""`quorum vote`: vote again on stored rollouts, by one rule or several side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from quorum.errors import ConfigError, DataError

_COLUMNS = {
    "num_groups": ("groups", "{:,}"),
    "labelled": ("labelled", "{:.1%}"),
    "kept": ("kept", "{:.1%}"),
    "agreement": ("agreement", "{:.3f}"),
    "label_accuracy": ("label acc.", "{:.1%}"),
    "reward_accuracy": ("reward acc.", "{:.1%}"),
    "abstained": ("abstained", "{:.1%}"),
    "distinct_answers": ("answers", "{:.2f}"),
    "seconds": ("seconds", "{:.1f}"),
}
"""Figure -> heading and format, in the order shown."""


_Paths = Annotated[
    list[Path],
    typer.Argument(
        help="A run directory (or its name under runs/), closed group files of a run, or one Parquet or JSONL file "
        "with a column completions (lists of texts) and, if there are any, prompt_id and answer."
    ),
]
_Rules = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[,OPTION=VALUE...]",
        help="Vote by this rule; repeat for several.  [default: the run's own rule, or majority]",
    ),
]
_Answers = Annotated[
    Path | None, typer.Option(help="Reference answers: a Parquet or JSONL file with columns prompt_id and answer.")
]
_Grader = Annotated[
    str | None,
    typer.Option(
        metavar="EQUIVALENCE",
        help="Compare with references by this one, for all rules alike.  [default: the run's, or exact]",
    ),
]
_Out = Annotated[Path | None, typer.Option(help="Write every rule's votes here, as Parquet.")]
_Plugins = Annotated[
    list[str] | None, typer.Option(metavar="MODULE", help="Import your own rules; repeat for several.")
]


def vote(
    rollouts: _Paths,
    rule: _Rules = None,
    answers: _Answers = None,
    grader: _Grader = None,
    out: _Out = None,
    plugin: _Plugins = None,
) -> None:
    """Vote again on stored rollouts and compare rules. Nothing is generated; needs no Ray, torch or vLLM.

    A rule is a name and what differs from the run's voting settings (without a run: from the defaults). An option
    is one of the rule's own, a field of voting.elect, voting.batch or voting.train, or extractor=, equivalence=,
    truncated=. With a dot it is one of theirs: elect.denominator, gate.max_agreement, equivalence.float_rounding.
    preset= names a preset or configuration file whose voting settings are kept instead of the run's. Values are
    YAML; a comma inside brackets or quotes belongs to the value. Rules: majority, soft, restrain, scrl, novelty,
    random, format_only, inverted, srt_compat, ttrl_compat, and those of your plug-ins.

    \b
    Examples:
      quorum vote runs/my-run --rule majority --rule soft --rule majority,min_agreement=0.5
      quorum vote runs/my-run --rule majority,equivalence=math_verify,equivalence.float_rounding=3
      quorum vote samples.jsonl --rule majority,extractor=last_number --answers references.jsonl
      quorum vote runs/my-run --rule srt_compat,preset=srt_compat --rule ttrl_compat,preset=ttrl_compat
      quorum vote runs/my-run/groups/step-000012.b00.i00.parquet --rule soft,keep_fraction=0.5 --out votes.parquet
      quorum vote samples.parquet --plugin my_votes --rule my_rule,my_option=3

    \b
    Shown per rule, over all groups:
      labelled   share that elected a pseudo-label       abstained  share of completions without an answer
      kept       share that stays in the batch           answers    different answers of a group, mean
      agreement  the winner's share of the vote, mean    seconds    reading, comparing, electing and paying
      label acc.   pseudo-labels that are right, of groups with a reference
      reward acc.  completions paid exactly when they are right, of the kept groups with a reference

    Groups of one step are one batch (keep_fraction), and so are all rows of a table. References are looked for after
    the last vote: in the data that the run's configuration names, in the column answer, or in --answers. The last line
    is a RESULT line.
    """
    _check_out(out)
    if answers is not None and not answers.is_file():
        raise DataError(f"--answers {answers}: no such file")
    _vote(rollouts, rule or [], answers, grader, out, plugin or [])


def _vote(
    paths: Sequence[Path],
    rules: Sequence[str],
    answers: Path | None,
    grader: str | None,
    out: Path | None,
    modules: Sequence[str],
) -> None:
    from configs.load import import_plugins
    from configs.schema import Plugin
    from orchestration.cli.result import result_line
    from orchestration.revote import compare, measure, needs_tokens, parse_rules
    from orchestration.stored_rollouts import find_rollouts
    from orchestration.watch.grade import Grader

    began = time.perf_counter()
    stored = find_rollouts(paths)
    _check_apart(out, [*paths, *stored.paths, *([answers] if answers else [])])
    plugins = tuple(dict.fromkeys([*stored.plugins, *modules]))
    import_plugins(plugins)
    base = stored.section
    choices = parse_rules(rules, base)
    judged = base if grader is None else base.model_copy(update={"equivalence": Plugin(name=grader)})
    with Grader(judged, plugins) as judge:
        read = stored.read(with_tokens=needs_tokens(choices))
        print(_what(paths, read.groups, base), flush=True)
        if stored.config is not None and stored.config.voting.labels.name != base.labels.name:
            name = stored.config.voting.labels.name
            print(f"note: the run's labels ({name}) are not at hand: the groups vote themselves")
        made = compare(read, choices, plugins)
        if out is not None:
            _write(out, made, read)
            print(f"votes: {out}")
        references, note = _references(stored, read.groups, answers)
        print(f"{note}; accuracies by equivalence {judged.equivalence.name}" if references else note)
        figures = {one.choice.text: measure(one, read, references, judge) for one in made}
    print(_table(figures))
    values = {
        "num_groups": len(read.groups),
        "num_references": 0 if references is None else len(references),
        "rules": {name: {key: _rounded(value) for key, value in row.items()} for name, row in figures.items()},
        "seconds": time.perf_counter() - began,
    }
    print(result_line("vote", values, seed=0, repeats=1))


def _references(stored: Any, groups: Sequence[Any], answers: Path | None) -> tuple[Any, str]:
    """(References or None, what to say of them). Only a file that was asked for must be readable."""
    try:
        found = stored.references(groups, answers)
    except DataError as error:
        if answers is not None:
            raise
        return None, f"no references: {error}"
    if not len(found):
        return None, "no references: accuracies cannot be told (--answers FILE gives some)"
    return found, f"{len(found):,} prompts have a reference answer"


def _what(paths: Sequence[Path], groups: Sequence[Any], section: Any) -> str:
    sizes = sorted({len(group.completions) for group in groups})
    k = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
    changed = [
        f"{part}.{key}={value}"
        for part in ("elect", "batch", "train")
        for key, value in getattr(section, part).model_dump(exclude_defaults=True).items()
    ]
    reading = [f"extractor={section.extractor.name}", f"equivalence={section.equivalence.name}"]
    return f"{name}: {len(groups):,} groups of {k} completions; {', '.join([*reading, *changed])} unless a rule differs"


def _table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    width = max(len(name) for name in ("rule", *figures))
    lines = [f"{'rule':{width}}  " + "  ".join(f"{heading:>11}" for heading, _ in _COLUMNS.values())]
    for name, row in figures.items():
        cells = ("-" if row[key] is None else form.format(row[key]) for key, (_, form) in _COLUMNS.items())
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _check_out(out: Path | None) -> None:
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise ConfigError(f"--out {out}: want a file in a directory that exists")


def _check_apart(out: Path | None, inputs: Sequence[Path]) -> None:
    """Refuse to write over what is read, or into a run's own groups."""
    if out is None:
        return
    read = {path.resolve() for path in inputs}
    if out.resolve() in read or any(path.is_dir() and out.resolve().is_relative_to(path) for path in read):
        raise ConfigError(f"--out {out} would write over, or among, what is read: choose another place")


def _write(out: Path, made: Sequence[Any], read: Any) -> None:
    import pyarrow.parquet as pq

    from orchestration.revote import votes_table
    from orchestration.storage import storage_errors

    beside = out.with_name(f".{out.name}.tmp")
    with storage_errors(out):
        pq.write_table(votes_table(made, read), beside)
        os.replace(beside, out)
