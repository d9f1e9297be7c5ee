"""`quorum data`: the papers' training and test sets, reports of what overlaps, parts and variants of a set."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from quorum.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    help="Prepare the papers' data sets, report duplicates and overlap with test sets, make subsets and variants.",
)

_Out = Annotated[Path, typer.Option(help="Directory to write NAME.parquet and its companions to.")]
_From = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE|DIR", help="A local copy: JSON, JSONL, Parquet or CSV; instead of the hub."),
]
_Columns = Annotated[
    str | None,
    typer.Option(metavar="ROLE=COLUMN,...", help="Columns of prompt, answer, data_source where they differ."),
]
_Table = Annotated[
    Path | None,
    typer.Option(help="Of `quorum label`: labels.parquet for agreement, audit/pass_rates.parquet for pass_rate."),
]


@app.command("list")
def list_sets() -> None:
    """Name the sets, where each comes from and how many prompts the papers state.

    \b
    Example:
      quorum data list
    """
    from data.prepare.catalog import CATALOG
    from data.prepare.hub import described

    width = max(map(len, CATALOG))
    for recipe in CATALOG.values():
        rows = f"{recipe.rows:,}" if recipe.rows else ""
        if recipe.generated:
            where = f"generated, {recipe.generated.size:,} from seed {recipe.generated.seed:,}"
        else:
            where = " or ".join(described(origin) for origin in recipe.origins)
        print(f"{recipe.name:{width}}  {recipe.role:5}  {rows:>6}  {recipe.what}: {where}")
        for origin in recipe.origins:
            if origin.note:
                print(f"{'':{width}}                 {origin.hub}: {origin.note}")


@app.command("prepare")
def prepare(
    names: Annotated[list[str], typer.Argument(help="Sets by name (`quorum data list`), or `all`.")],
    out: _Out = Path("prepared"),
    local: _From = None,
    columns: _Columns = None,
    split: Annotated[str | None, typer.Option(help="Another split than the catalog's.")] = None,
    hub: Annotated[str | None, typer.Option(help="Another repository than the catalog's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of the repository.")] = None,
    suffix: Annotated[
        str,
        typer.Option(help="Append to every prompt; `paper` is arXiv 2505.21444's. Presets append it themselves."),
    ] = "",
    size: Annotated[int | None, typer.Option(min=1, help="Entries of a generated set.")] = None,
) -> None:
    """Write OUT/NAME.parquet (prompts), OUT/NAME.references.parquet (answers, apart) and OUT/NAME.manifest.json.

    A run reads them by the first name alone: data.train.0.path=prepared/dapo.parquet. Sets on the hub are fetched
    through the package `datasets`; without network pass a local copy. The manifest bears no date: the same data gives
    the same one.

    \b
    Examples:
      quorum data prepare dapo math500 aime24 aime25 amc23
      quorum data prepare aime_1983_2023 --from AIME_Dataset_1983_2024.csv
      quorum data prepare math12k --from train.jsonl --columns prompt=question,answer=final_answer
      quorum data prepare rg_bitwise_3 rg_bitwise_3_eval --size 2000
    """
    from data.prepare.build import prepare as make
    from data.prepare.catalog import CATALOG, SUFFIX, find_recipe

    chosen = [find_recipe(name) for name in names] if names != ["all"] else list(CATALOG.values())
    if len(chosen) > 1 and (local or columns or hub or revision or split):
        raise ConfigError("--from, --columns, --split, --hub and --revision are about one set; name one")
    roles = _pairs(columns)
    for recipe in chosen:
        path = out / f"{recipe.name}.parquet"
        manifest = make(
            recipe,
            path,
            local=local,
            columns=roles,
            split=split,
            hub=hub,
            revision=revision,
            suffix=SUFFIX if suffix == "paper" else suffix,
            size=size,
        )
        print(f"{path}: {manifest['num_prompts']:,} prompts, {manifest['num_references']:,} references apart")
        if recipe.rows not in (None, manifest["num_prompts"]):
            print(f"note: the paper states {recipe.rows:,} prompts; this copy differs")


@app.command("report")
def report(
    train: Annotated[Path, typer.Argument(help="A prepared set.")],
    against: Annotated[list[Path] | None, typer.Option(help="A prepared test set; repeat for several.")] = None,
    kinds: Annotated[str, typer.Option(help="What to look for: exact, near, ngram.")] = "exact,near,ngram",
    threshold: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Jaccard similarity of word 3-grams of near-duplicates.")
    ] = 0.9,
    ngram: Annotated[int, typer.Option(min=1, help="Words of an n-gram that training and test may not share.")] = 13,
    drop: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the set without them.")] = None,
    out: Annotated[Path | None, typer.Option(help="The report.  [default: TRAIN with .overlap.json]")] = None,
    show: Annotated[int, typer.Option(min=0, help="Matches printed of each kind.")] = 3,
) -> None:
    """Find prompts that occur twice in TRAIN, and prompts of it that are in test sets; print and write JSON.

    Texts are compared in Unicode compatibility form, case folded, white space joined. exact: equal. near: the sets of
    their 3-grams of words and signs have the given similarity; two problems that differ in a number may be among them.
    ngram (with test sets alone): 13 words in a row in common, or the whole of a test prompt of 8 to 12 words. Sets
    generated from one template need --kinds exact.

    \b
    Examples:
      quorum data report prepared/dapo.parquet --against prepared/aime24.parquet --against prepared/math500.parquet
      quorum data report prepared/math12k.parquet --against prepared/math500.parquet --drop prepared/clean.parquet
    """
    from data.prepare.overlap import KINDS, OverlapOptions
    from data.prepare.report import make_report, write_clean

    wanted = tuple(kind for kind in KINDS if kind in kinds.split(","))
    if not wanted or set(kinds.split(",")) - set(KINDS):
        raise ConfigError(f"--kinds {kinds}: expected some of {', '.join(KINDS)}, with commas")
    if drop is not None and drop.resolve() == train.resolve():
        raise ConfigError(f"--drop {drop} would write over the set; choose another name")
    made = make_report(train, against or [], OverlapOptions(kinds=wanted, threshold=threshold, ngram=ngram))
    where = out or train.with_suffix(".overlap.json")
    _write_text(where, json.dumps(made.as_json(), indent=2, ensure_ascii=False) + "\n")
    print(f"{train}: {len(made.train.examples):,} prompts")
    for name, matches in {"inside the set": made.inside, **made.between}.items():
        counts = {kind: sum(one.kind == kind for one in matches) for kind in wanted}
        print(f"  {name}: " + (", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "none"))
        for kind in wanted:
            for one in [one for one in matches if one.kind == kind][:show]:
                print(f"    {kind} {one.similarity:.2f}  {_short(one.prompt)!r}  |  {_short(one.other_prompt)!r}")
    print(f"report: {where}")
    if drop is not None:
        manifest = write_clean(made, drop)
        print(f"{drop}: {manifest['num_prompts']:,} prompts, {len(made.dropped):,} left out")


@app.command("subset")
def subset(
    train: Annotated[Path, typer.Argument(help="A prepared set.")],
    out: Annotated[Path, typer.Option(help="NAME.parquet to write.")],
    by: Annotated[str | None, typer.Option(help="agreement or pass_rate, from --table.")] = None,
    table: _Table = None,
    easiest: Annotated[str | None, typer.Option(metavar="SHARE", help="The easiest share, as in 1/3.")] = None,
    quantiles: Annotated[
        str | None, typer.Option(metavar="A..B", help="By place in the order, hardest at 0, easiest at 1.")
    ] = None,
    values: Annotated[str | None, typer.Option(metavar="A..B", help="By the figure itself.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Easiest first; train with data.shuffle=false.")] = False,
    share: Annotated[float, typer.Option(help="A random share of the prompts.")] = 1.0,
    invert: Annotated[bool, typer.Option("--invert", help="What --share leaves out.")] = False,
    noise: Annotated[float, typer.Option(help="Write labels of which this share is wrong.")] = 0.0,
    noise_kind: Annotated[str, typer.Option(help="swap (another prompt's) or plus_one.")] = "swap",
    labelled: Annotated[float, typer.Option(help="Write labels for this share of the prompts.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
) -> None:
    """Take a part of a set, or a variant of its labels. Prompts keep their ids: tables of labels still fit.

    What is drawn depends on the seed and the prompt ids alone. The manifest says what was done. --noise and --labelled
    write OUT with .labels.parquet besides, for voting.labels=table; references stay true, so that the audit tells how
    many labels are wrong.

    \b
    Examples:
      quorum data subset prepared/dapo.parquet --out prepared/dapo_easy.parquet --by agreement \\
        --table runs/labels/labels.parquet --easiest 1/3
      quorum data subset prepared/dapo.parquet --out prepared/middle.parquet --by pass_rate \\
        --table runs/labels/audit/pass_rates.parquet --values 0.3..0.7
      quorum data subset prepared/dapo.parquet --out prepared/dapo_heldout.parquet --share 0.01
      quorum data subset prepared/dapo.parquet --out prepared/dapo_rest.parquet --share 0.01 --invert
      quorum data subset prepared/dapo.parquet --out prepared/noisy.parquet --noise 0.2 --noise-kind plus_one
      quorum data subset prepared/dapo.parquet --out prepared/tenth.parquet --labelled 0.1
    """
    from data.prepare.subset import COLUMNS, SubsetOptions, labels_path, make_subset

    if by is not None and by not in COLUMNS:
        raise ConfigError(f"--by {by}: expected {' or '.join(COLUMNS)}")
    if noise_kind not in ("swap", "plus_one"):
        raise ConfigError(f"--noise-kind {noise_kind}: expected swap or plus_one")
    given: dict[str, Any] = {"by": by, "noise_kind": noise_kind}
    options = SubsetOptions(
        **given,
        easiest=_fraction(easiest),
        quantiles=_range("--quantiles", quantiles),
        values=_range("--values", values),
        sort=sort,
        share=share,
        invert=invert,
        noise=noise,
        labelled=labelled,
        seed=seed,
    )
    manifest = make_subset(train, out, options, table)
    print(f"{out}: {manifest['num_prompts']:,} prompts, {manifest['num_references']:,} references apart")
    if options.has_labels:
        counts = f"{manifest['num_labels']:,} labels, {manifest['num_wrong_labels']:,} of them wrong on purpose"
        print(f"{labels_path(out)}: {counts}")
    if manifest.get("num_without_figure"):
        print(f"{manifest['num_without_figure']:,} prompts have no {by} and were left out")


def _pairs(text: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair]
    if any(not role.strip() or not column.strip() for role, _, column in pairs):
        raise ConfigError(f"--columns {text}: expected ROLE=COLUMN,... as in prompt=Problem,answer=Answer")
    return {role.strip(): column.strip() for role, _, column in pairs}


def _fraction(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--easiest {text}: expected a share as in 1/3 or 0.25") from error


def _range(option: str, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition("..")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected A..B, as in 0.3..0.7") from error


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def _write_text(path: Path, text: str) -> None:
    from orchestration.storage import storage_errors

    with storage_errors(path):
        path.write_text(text, encoding="utf-8")
