"""Makes one set of the catalog: rows from the hub, a local copy or a generator; filtered, keyed, written.

References and prompts part here: `write_prepared` puts them into files of their own. Metadata of generated tasks, which
gives answers away, is never read.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import DataSource
from data.columns import MISSING, lookup
from data.prepare.catalog import Generated, Origin, Recipe
from data.prepare.hub import described, read_hub
from data.prepare.local import read_local
from data.prepare.overlap import normalized
from data.prepare.write import Example, content_keys, write_prepared
from data.reasoning_gym_source import PREFIX, generate_rows
from quorum.errors import DataError

COLUMN_ROLES = ("prompt", "answer", "data_source")


def prepare(
    recipe: Recipe,
    out: Path,
    *,
    local: Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    hub: str | None = None,
    revision: str | None = None,
    suffix: str = "",
    size: int | None = None,
) -> dict[str, Any]:
    """Make a set and write it as `out` with its references and manifest beside it.

    Args:
        recipe: from the catalog.
        out: `.../NAME.parquet`.
        local: a local copy to take rows from instead of the hub.
        columns: role (prompt, answer, data_source) -> column, where it is not the catalog's.
        split: of the hub's or a saved set, where it is not the catalog's.
        hub: another repository instead of the catalog's, read like the first of them.
        revision: of the repository.
        suffix: appended to every prompt.
        size: entries to generate, where it is not the catalog's.

    Returns:
        The manifest.

    Raises:
        DataError: the rows cannot be had, a column is missing, or no row is left.
    """
    if recipe.generated is not None:
        if local or columns or split or hub or revision:
            raise DataError(
                f"{recipe.name} is generated: --from, --columns, --split, --hub and --revision do not apply"
            )
        generated = recipe.generated if size is None else replace(recipe.generated, size=size)
        examples, provenance = _generate(recipe, generated)
    elif size is not None:
        raise DataError(f"{recipe.name} is not generated: it has the rows that it has; leave out --size")
    else:
        unknown = sorted((columns or {}).keys() - set(COLUMN_ROLES))
        if unknown:
            raise DataError(f"--columns {', '.join(unknown)}: expected {', '.join(COLUMN_ROLES)}")
        origin, rows, provenance = _rows(recipe, local, split, hub, revision)
        examples, provenance = _take(recipe, origin, rows, columns or {}, provenance)
    if suffix:
        examples = [replace(one, prompt=one.prompt + suffix) for one in examples]
        provenance["suffix"] = suffix
    return write_prepared(out, examples, {"recipe": recipe.name, **provenance})


def _rows(
    recipe: Recipe, local: Path | None, split: str | None, hub: str | None, revision: str | None
) -> tuple[Origin | None, list[dict[str, Any]], dict[str, Any]]:
    if local is not None:
        rows, provenance = read_local(local, split or recipe.origins[0].split)
        return None, rows, {"origin": provenance}
    origins = [replace(recipe.origins[0], hub=hub)] if hub else list(recipe.origins)
    if split:
        origins = [replace(origin, split=split) for origin in origins]
    if revision and len(origins) > 1:
        origins = origins[:1]
    found, rows, provenance = read_hub(recipe.name, origins, revision)
    return found, rows, {"origin": provenance}


def _take(
    recipe: Recipe,
    found: Origin | None,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    provenance: dict[str, Any],
) -> tuple[list[Example], dict[str, Any]]:
    """Examples of the rows that the recipe means, and the provenance with what was left out."""
    origin = found or _origin_of(recipe, rows, columns)
    kept = [row for row in rows if _is_meant(row, origin)]
    if not kept:
        wanted = {**origin.where, **{name: list(bounds) for name, bounds in origin.between.items()}}
        raise DataError(f"{recipe.name}: none of {len(rows):,} rows is meant; wanted {wanted or 'any row'}")
    prompt_column, answer_column = columns.get("prompt", origin.prompt), columns.get("answer", origin.answer)
    source_column = columns.get("data_source")
    texts, answers = [], []
    for index, row in enumerate(kept):
        where = f"{recipe.name} row {index}"
        prompt, answer = _text(row, prompt_column, where), _answer(row, answer_column, where)
        if origin.choices:
            prompt, answer = _with_choices(prompt, answer, [_text(row, name, where) for name in origin.choices])
        texts.append(prompt)
        answers.append(answer)
    sources = [_text(row, source_column, recipe.name) if source_column else recipe.name for row in kept]
    examples = [Example(*one) for one in zip(content_keys(texts), texts, sources, answers, strict=True)]
    return examples, {
        **provenance,
        "columns": {"prompt": prompt_column, "answer": answer_column},
        "filter": {"where": dict(origin.where), "between": {k: list(v) for k, v in origin.between.items()}},
        "num_rows_read": len(rows),
    }


def _origin_of(recipe: Recipe, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Origin:
    """Which of the recipe's origins a local copy looks like, by its columns.

    A copy without the columns of a filter is taken whole: it may have been filtered already.
    """
    there = set(rows[0]) if rows else set()

    def missing(origin: Origin) -> list[str]:
        named = (columns.get("prompt", origin.prompt), columns.get("answer", origin.answer), *origin.choices)
        return [name for name in named if name.partition(".")[0] not in there]

    plain = Origin(hub="a local copy")
    filtered = [origin for origin in recipe.origins if {*origin.where, *origin.between} <= there]
    for origin in (*filtered, *recipe.origins, plain):
        if not missing(origin) and (origin is not plain or not any(one.choices for one in recipe.origins)):
            is_whole = origin not in filtered
            return replace(origin, where={}, between={}) if is_whole else origin
    expected = "; ".join(f"{described(one)} has {one.prompt} and {one.answer}" for one in recipe.origins)
    raise DataError(
        f"{recipe.name}: the local copy has columns {', '.join(sorted(there)) or 'none'}; {expected}. Name them: "
        "--columns prompt=COLUMN,answer=COLUMN"
    )


def _is_meant(row: Mapping[str, Any], origin: Origin) -> bool:
    if any(str(lookup(row, name)) != value for name, value in origin.where.items()):
        return False
    for name, (low, high) in origin.between.items():
        value = lookup(row, name)
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False  # no such figure for this row
        if not low <= number <= high:
            return False
    return True


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = lookup(row, name)
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        turns = [turn for turn in value if turn.get("role") == "user"]
        value = turns[0].get("content") if len(turns) == 1 else MISSING
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where}: column {name!r} must hold a text or one user turn; the row has {', '.join(map(str, row))} "
            "(--columns prompt=COLUMN,answer=COLUMN)"
        )
    return value.strip()


def _answer(row: Mapping[str, Any], name: str, where: str) -> str:
    value = lookup(row, name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise DataError(f"{where}: column {name!r} must hold an answer, got {value!r} (--columns answer=COLUMN)")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _with_choices(question: str, right: str, wrong: Sequence[str]) -> tuple[str, str]:
    """The question with lettered choices in an order drawn from its own text, and the letter of the right one."""
    choices = [right, *wrong]
    seed = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big")
    random.Random(seed).shuffle(choices)
    letters = "ABCDEFGHIJ"[: len(choices)]
    lines = [f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return "\n".join([question, *lines]), letters[choices.index(right)]


def _generate(recipe: Recipe, generated: Generated) -> tuple[list[Example], dict[str, Any]]:
    """Entries without those that occur twice, or in the set that is to be avoided."""
    entries = _entries(generated)
    avoided: set[str] = set()
    if generated.avoid is not None:
        _check_seeds(recipe.name, generated, generated.avoid)
        avoided = {normalized(entry["question"]) for entry in _entries(generated.avoid)}
    seen: set[str] = set()
    kept, repeated, overlapping = [], 0, 0
    for entry in entries:
        text = normalized(entry["question"])
        if text in avoided:
            overlapping += 1
        elif text in seen:
            repeated += 1
        else:
            kept.append(entry)
        seen.add(text)
    prompts = [str(entry["question"]).strip() for entry in kept]
    answers = [str(entry["answer"]).strip() for entry in kept]
    examples = [
        Example(key, prompt, recipe.name, answer)
        for key, prompt, answer in zip(content_keys(prompts), prompts, answers, strict=True)
    ]
    origin = {
        "kind": "reasoning_gym",
        "task": generated.task,
        "options": dict(generated.options),
        "seeds": [generated.seed, generated.seed + generated.size - 1],
        "version": _version(),
    }
    left_out = {"num_rows_read": len(entries), "num_repeated": repeated, "num_in_evaluation": overlapping}
    return examples, {"origin": origin, **left_out}


def _entries(generated: Generated) -> list[dict[str, Any]]:
    source = DataSource(
        path=f"{PREFIX}{generated.task}",
        task_options=dict(generated.options),
        size=generated.size,
        seed=generated.seed,
    )
    return generate_rows(source)


def _check_seeds(name: str, one: Generated, other: Generated) -> None:
    if one.seed < other.seed + other.size and other.seed < one.seed + one.size:
        raise DataError(
            f"{name}: {one.size:,} entries from seed {one.seed:,} would share seeds with the evaluation set (from "
            f"{other.seed:,}); generate fewer"
        )


def _version() -> str:
    from importlib import metadata

    return metadata.version("reasoning-gym")
