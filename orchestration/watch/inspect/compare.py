"""Two steps, or two runs, prompt by prompt: what became of the label, the agreement and the majority's correctness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np

from orchestration.watch.inspect.files import prompt_starts
from orchestration.watch.inspect.html import RIGHT, document, group_name, pair_url, share
from orchestration.watch.inspect.index import RoleIndex, RunIndex
from orchestration.watch.inspect.selection import PAGE_SIZE, Selection, parse_steps
from quorum.errors import DataError
from quorum.types import Role

_HEAD = ("prompt", "label", "agreement", "completions' tokens", "majority", "")
_PROMPT_CHARACTERS = 90


@dataclass(frozen=True, slots=True)
class _Side:
    """The last visit of every prompt in a range of steps of one run."""

    number: int
    """0 for the run itself, 1 for the one it is compared with."""
    steps: str
    index: RoleIndex
    places: dict[str, int]
    """By prompt id, in the index's table."""

    @property
    def name(self) -> str:
        return f"{self.index.run.name}, {f'steps {self.steps}' if self.steps else 'all steps'}"

    def row(self, prompt_id: str) -> dict[str, Any]:
        """The prompt's row of the index, with `right` and `tokens`."""
        place = self.places[prompt_id]
        row: dict[str, Any] = self.index.table.slice(place, 1).to_pylist()[0]
        tokens = float(self.index.tokens(row["step"])[row["row"]])
        return row | {"right": int(self.index.right[place]), "tokens": tokens}


def compare_page(runs: list[RunIndex], query: Mapping[str, str]) -> str:
    """Prompts that both sides visited, those whose label changed first, then by how far the agreement moved.

    Args:
        runs: the run and, when there is one, the run to compare with.
        query: `a` and `b`, each RUN (0 or 1) and steps as `RUN:STEPS` with "", N or N..M; `role`; `page`.

    Raises:
        DataError: a field says nothing.
    """
    chosen = Selection.parse({name: query[name] for name in ("role", "page") if name in query})
    role, page = Role(chosen.role), chosen.page_number
    named = query.get("a", "0:"), query.get("b", f"{len(runs) - 1}:")
    left, right = (_side(runs, role, name) for name in named)
    both = _ordered(left, right)
    start = (page - 1) * PAGE_SIZE
    address = {"role": role.value, "a": named[0], "b": named[1]}
    pages = [
        f'<a href="{escape("/compare?" + urlencode(address | {"page": str(number)}))}">{word}</a>'
        for word, number, is_there in (
            ("previous", page - 1, page > 1),
            ("next", page + 1, start + PAGE_SIZE < len(both)),
        )
        if is_there
    ]
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    body = (
        f'<p><a href="/">All groups</a></p><h1>{escape(left.name)} &rarr; {escape(right.name)}</h1>'
        f"{_summary(left, right, both)}{_form(runs, named, role)}"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{_rows(left, right, both[start : start + PAGE_SIZE])}</tbody></table></div><p>{' '.join(pages)}</p>"
    )
    return document("Comparison", body)


def _side(runs: list[RunIndex], role: Role, name: str) -> _Side:
    number, _, steps = name.partition(":")
    if number not in [str(place) for place in range(len(runs))]:
        raise DataError(f"got {name!r}, wanted RUN:STEPS with RUN from 0 to {len(runs) - 1}, as in 0:10..20")
    index = runs[int(number)].of(role)
    numbers = index.table.column("step").to_numpy()
    first, last = parse_steps(steps) or (0, int(numbers.max(initial=0)))
    chosen = np.flatnonzero((numbers >= first) & (numbers <= last))
    ids = index.table.column("prompt_id").take(chosen).to_pylist()
    return _Side(int(number), steps, index, dict(zip(ids, chosen.tolist(), strict=True)))


def _ordered(left: _Side, right: _Side) -> list[str]:
    """Prompt ids of both sides: changed labels first, then the largest move of the agreement, then the run's order."""
    both = [prompt_id for prompt_id in left.places if prompt_id in right.places]
    if not both:
        return []
    labels, agreements = (
        [
            [side.index.table.column(column)[side.places[prompt_id]].as_py() for prompt_id in both]
            for side in (left, right)
        ]
        for column in ("label", "agreement")
    )
    is_same = np.array([before == after for before, after in zip(*labels, strict=True)])
    before, after = (np.nan_to_num(np.array(values, dtype=np.float64)) for values in agreements)
    return [both[place] for place in np.lexsort((-np.abs(after - before), is_same))]


def _summary(left: _Side, right: _Side, both: list[str]) -> str:
    if not both:
        return '<p class="warning">No prompt was visited by both.</p>'
    cells = []
    for side in (left, right):
        places = np.array([side.places[prompt_id] for prompt_id in both])
        agreement = side.index.table.column("agreement").to_numpy()[places]
        verdicts = side.index.right[places]
        audited = verdicts[verdicts >= 0]
        mean = float(np.nanmean(agreement)) if np.isfinite(agreement).any() else None
        cells.append((side.name, share(mean), share(float(audited.mean())) if len(audited) else "not audited"))
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    return (
        f'<p class="sub" id="count">{len(both):,} prompts in both; of each, its last visit there</p>'
        "<table><tr><th></th>"
        f"<th>mean agreement</th><th>majorities right</th></tr>{rows}</table>"
    )


def _form(runs: list[RunIndex], named: tuple[str, str], role: Role) -> str:
    names = "; ".join(f"{number} is {escape(run.run.name)}" for number, run in enumerate(runs))
    fields = "".join(
        f'<label>{name} <input name="{name}" size="10" value="{escape(value)}"></label> '
        for name, value in zip("ab", named, strict=True)
    )
    roles = "".join(
        f"<option{' selected' if one is role else ''}>{one.value}</option>"
        for one in Role
        if any(one in run.roles for run in runs) or one is role
    )
    fields += f'<label>role <select name="role">{roles}</select></label> '
    note = f'<p class="note">RUN:STEPS, as in 0:10..20 or 0:7; {names}.</p>'
    return f'<form method="get" action="/compare">{fields}<button>Compare</button></form>{note}'


def _rows(left: _Side, right: _Side, prompt_ids: list[str]) -> str:
    made = ""
    for prompt_id in prompt_ids:
        before, after = left.row(prompt_id), right.row(prompt_id)
        text = prompt_starts(left.index.path(before["step"]), [before["row"]], _PROMPT_CHARACTERS)[0]
        link = pair_url(
            group_name(left.number, left.index.role, before), group_name(right.number, right.index.role, after)
        )
        cells = (
            escape(text),
            _change(_label(before), _label(after)),
            _change(share(before["agreement"]), share(after["agreement"])),
            _change(_tokens(before), _tokens(after)),
            _change(RIGHT[before["right"]], RIGHT[after["right"]]),
            f'<a href="{escape(link)}">side by side</a>',
        )
        made += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return made


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} &rarr; {after}"


def _label(row: dict[str, Any]) -> str:
    return f"<code>{escape(row['label'])}</code>" if row["label"] is not None else "none"


def _tokens(row: dict[str, Any]) -> str:
    return "" if np.isnan(row["tokens"]) else f"{row['tokens']:.0f}"
