"""Parts and variants of a prepared set: by agreement or pass rate, with wrong labels, with few labels.

Each is a function of the set, a seed and the prompt ids; neither order nor file names matter. References stay as they
are, so that the audit knows the truth: wrong or few labels are a table for `voting.labels: table`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from data.prepare.write import Example, PreparedSet, read_prepared, rows_hash, write_prepared, write_whole
from data.prompts import view_id
from data.references import is_drawn
from quorum.errors import ConfigError, DataError

Measure = Literal["agreement", "pass_rate"]
COLUMNS: dict[Measure, str] = {"agreement": "agreement", "pass_rate": "pass_rate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetOptions:
    """What to take, and what to do to its references."""

    by: Measure | None = None
    """Which figure of the table prompts are told apart by."""
    easiest: Fraction | None = None
    """Share of the set that is taken, those with the highest figure."""
    quantiles: tuple[float, float] | None = None
    """Take prompts whose place in the order, lowest figure first, lies between these shares of the set."""
    values: tuple[float, float] | None = None
    """Take prompts whose figure lies between these, both included."""
    sort: bool = False
    """Highest figure first; otherwise the order of the set."""
    share: float = 1.0
    """Random share of the prompts, by seed and prompt id."""
    invert: bool = False
    """Take what `share` leaves out."""
    noise: float = 0.0
    """Share of the labels that are made wrong."""
    noise_kind: Literal["swap", "plus_one"] = "swap"
    """swap: another prompt's reference that differs; plus_one: the number plus 1."""
    labelled: float = 1.0
    """Share of the prompts that have a label."""
    seed: int = 0

    @property
    def has_labels(self) -> bool:
        """Whether a table of labels is wanted besides."""
        return self.noise > 0 or self.labelled < 1

    def problems(self) -> list[str]:
        """What contradicts what."""
        found = []
        chosen = [name for name in ("easiest", "quantiles", "values") if getattr(self, name) is not None]
        if len(chosen) > 1:
            found.append(f"--{' and --'.join(chosen)} are different choices; give one")
        if (chosen or self.sort) and self.by is None:
            found.append("say by which figure: --by agreement or --by pass_rate, with --table FILE")
        for name in ("share", "noise", "labelled"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"--{name} {getattr(self, name):g}: expected a share between 0 and 1")
        if self.easiest is not None and not 0 < self.easiest <= 1:
            found.append(f"--easiest {self.easiest}: expected a share above 0 and at most 1, as in 1/3")
        for name in ("quantiles", "values"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                found.append(f"--{name} {bounds[0]:g}..{bounds[1]:g}: the lower bound comes first")
        if self.quantiles is not None and not 0 <= self.quantiles[0] <= self.quantiles[1] <= 1:
            found.append(f"--quantiles {self.quantiles[0]:g}..{self.quantiles[1]:g}: expected shares between 0 and 1")
        return found


def make_subset(train: Path, out: Path, options: SubsetOptions, table: Path | None = None) -> dict[str, Any]:
    """Write a part or variant of a prepared set. Its prompts keep their ids, so that label tables still fit.

    Args:
        train: the set.
        out: `.../NAME.parquet`.
        options: what to take.
        table: of `quorum label`: labels.parquet for agreement, audit/pass_rates.parquet for pass rates.

    Returns:
        The manifest.

    Raises:
        ConfigError: options that contradict each other.
        DataError: a file cannot be read, has no figure for any prompt, or nothing is left.
    """
    if problems := options.problems():
        raise ConfigError(problems)
    if (options.by is None) != (table is None):
        raise ConfigError("--by and --table go together: the figure, and the file that holds it")
    if out.resolve() == train.resolve():
        raise ConfigError(f"--out {out} is the set itself; choose another name")
    ours = read_prepared(train)
    examples = list(ours.examples)
    provenance: dict[str, Any] = {
        "subset_of": {"name": ours.name, "prompts_hash": ours.manifest.get("prompts_hash")},
        "options": {name: _plain(value) for name, value in asdict(options).items()},
    }
    if options.by is not None and table is not None:
        figures = read_figures(table, options.by)
        known = {one.key: figures[pid] for one in examples if (pid := id_of(ours, one)) in figures}
        if not known:
            raise DataError(
                f"{table}: no row belongs to a prompt of {train}; it must have been made from this set, or from one "
                "that this set is a part of"
            )
        provenance["table_hash"] = rows_hash([{"id": key, options.by: known[key]} for key in sorted(known)])
        provenance["num_without_figure"] = len(examples) - len(known)
        examples = choose(examples, known, options)
    if options.share < 1 or options.invert:
        drawn = {one.key for one in examples if is_drawn(id_of(ours, one), options.share, options.seed, "subset")}
        examples = [one for one in examples if (one.key in drawn) != options.invert]
    if options.has_labels:
        labels = make_labels(ours, examples, options)
        truth = {one.key: one.answer for one in examples}
        provenance["num_labels"] = len(labels)
        provenance["num_wrong_labels"] = sum(truth[key] != label for key, label in labels.items())
        _write_labels(labels_path(out), ours, examples, labels, options)
    return write_prepared(out, examples, provenance, name=ours.name)


def labels_path(out: Path) -> Path:
    """Of the table of labels beside a subset."""
    return out.with_suffix(".labels.parquet")


def id_of(ours: PreparedSet, example: Example) -> str:
    """prompt_id of a run that trains on the set."""
    return view_id(ours.name, example.key, is_paraphrase=False)


def read_figures(table: Path, by: Measure) -> dict[str, float]:
    """A figure of `quorum label` by prompt_id; rows without it are left out.

    Raises:
        DataError: not readable, or without the columns.
    """
    import pyarrow
    from pyarrow import parquet

    column = COLUMNS[by]
    hint = "labels.parquet" if by == "agreement" else "audit/pass_rates.parquet"
    try:
        names = parquet.read_schema(table).names
        if "prompt_id" not in names or column not in names:
            raise DataError(f"{table}: needs columns prompt_id and {column}, as {hint} of `quorum label` has")
        rows = parquet.read_table(table, columns=["prompt_id", column]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{table}: cannot be read as a Parquet table: {error}") from error
    return {row["prompt_id"]: float(row[column]) for row in rows if row[column] is not None}


def choose(examples: Sequence[Example], figures: Mapping[str, float], options: SubsetOptions) -> list[Example]:
    """Those that are meant, of those that have a figure; equal figures are ordered by seed and key, not by place.

    Args:
        examples: the set in order.
        figures: by key.
        options: easiest, quantiles, values, sort.
    """
    have = [one for one in examples if one.key in figures]
    hardest_first = sorted(have, key=lambda one: (figures[one.key], _lot(options.seed, one.key)))
    if options.easiest is not None:
        wanted = hardest_first[len(have) - math.floor(len(have) * options.easiest) :]
    elif options.quantiles is not None:
        low, high = (math.floor(len(have) * bound + 0.5) for bound in options.quantiles)
        wanted = hardest_first[low:high]
    elif options.values is not None:
        wanted = [one for one in hardest_first if options.values[0] <= figures[one.key] <= options.values[1]]
    else:
        wanted = hardest_first
    if options.sort:
        return wanted[::-1]
    keys = {one.key for one in wanted}
    return [one for one in have if one.key in keys]


def make_labels(ours: PreparedSet, examples: Sequence[Example], options: SubsetOptions) -> dict[str, str]:
    """Label by key: the references of a share of the examples, of which a share is wrong.

    Raises:
        DataError: no reference at all, one that is no whole number (plus_one), or no other answer (swap).
    """
    truth = {one.key: one.answer for one in examples if one.answer is not None}
    if not truth:
        raise DataError("--noise and --labelled make labels of references, and no prompt has one")
    ring = sorted(truth, key=lambda key: _lot(options.seed, key))
    places = {key: place for place, key in enumerate(ring)}
    answers = [truth[key] for key in ring]
    labels: dict[str, str] = {}
    for one in examples:
        prompt_id, answer = id_of(ours, one), one.answer
        if answer is None or not is_drawn(prompt_id, options.labelled, options.seed, "labelled"):
            continue
        is_wrong = is_drawn(prompt_id, options.noise, options.seed, "noise")
        if is_wrong and options.noise_kind == "plus_one":
            answer = _plus_one(answer, one.key)
        elif is_wrong:
            answer = _another(answers, places[one.key])
        labels[one.key] = answer
    return labels


def _another(answers: Sequence[str], place: int) -> str:
    """The next answer in the ring that differs from the one in this place."""
    others = (answers[(place + step) % len(answers)] for step in range(1, len(answers)))
    found = next((answer for answer in others if answer != answers[place]), None)
    if found is None:
        raise DataError("--noise: all references are equal, so that none can be swapped for another")
    return found


def _write_labels(
    path: Path, ours: PreparedSet, examples: Sequence[Example], labels: Mapping[str, str], options: SubsetOptions
) -> None:
    """A table as `quorum label` writes it; agreement 1, for these come from references."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {
            "prompt_id": id_of(ours, one),
            "data_source": one.data_source,
            "label": labels[one.key],
            "agreement": 1.0,
        }
        for one in examples
        if one.key in labels
    ]
    if not rows:
        raise DataError(f"{path}: --labelled {options.labelled:g} leaves no label")
    names = ("noise", "noise_kind", "labelled", "seed")
    metadata = {f"quorum.labels.{name}": str(getattr(options, name)) for name in names}
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"quorum.labels.made_of": "references", **metadata})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda beside: parquet.write_table(table, beside, compression="zstd"))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _plus_one(answer: str, key: str) -> str:
    try:
        return str(int(answer) + 1)
    except ValueError as error:
        raise DataError(
            f"--noise-kind plus_one: the reference of prompt {key} is {answer!r}, not a whole number; use swap"
        ) from error


def _lot(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=16).digest()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Fraction) else value
