"""The pages as HTML: list, group, two groups side by side. No script; every text of a run is escaped."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np

from orchestration.watch.inspect.files import prompt_starts, read_row
from orchestration.watch.inspect.html import RIGHT, document, group_name, pair_url, share
from orchestration.watch.inspect.index import RoleIndex, RunIndex
from orchestration.watch.inspect.selection import ORDERS, PAGE_SIZE, Selection
from orchestration.watch.report_page import cut
from quorum.errors import DataError
from quorum.types import EndState, Role

SHOWN_CHARACTERS = 20_000


def list_page(run: RunIndex, selection: Selection) -> str:
    """Groups that pass the filters, a page of them."""
    index = run.of(Role(selection.role))
    places = selection.places(index)
    start = (selection.page_number - 1) * PAGE_SIZE
    shown = places[start : start + PAGE_SIZE]
    notes = "".join(f'<p class="warning">{escape(text)}</p>' for text in index.problems.values())
    if index.open_steps:
        notes += f'<p class="note">Step {index.open_steps[-1]} is not closed; its groups appear then. Reload.</p>'
    pages = ""
    if start:
        pages += f'<a href="{escape(selection.url(page=str(selection.page_number - 1)))}">previous</a> '
    if start + PAGE_SIZE < len(places):
        pages += f'<a href="{escape(selection.url(page=str(selection.page_number + 1)))}">next</a>'
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    body = (
        f'<h1>{escape(run.run.name)}</h1><p class="sub" id="count">{len(places):,} of {len(index.table):,} groups '
        f"in {len(index.steps):,} steps</p>{notes}"
        f'<p><a href="/compare?role={selection.role}">Compare two steps or runs</a></p>{_form(run, selection, index)}'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{_rows(index, shown)}</tbody></table></div>'
        f"<p>{pages}</p>"
    )
    return document(f"{run.run.name}: groups", body)


_HEAD = (
    *("step", "group", "prompt", "source", "agreement", "margin", "label", "end state", "majority", "label flip"),
    *("answers", "tokens"),
)


def _rows(index: RoleIndex, places: np.ndarray) -> str:
    rows = index.table.take(places).to_pylist()
    prompts: dict[tuple[int, int], str] = {}
    for step in {row["step"] for row in rows}:
        numbers = [row["row"] for row in rows if row["step"] == step]
        starts = prompt_starts(index.path(step), numbers, 90)
        prompts |= {(step, number): text for number, text in zip(numbers, starts, strict=True)}
    made = []
    for place, row in zip(places, rows, strict=True):
        text = prompts[row["step"], row["row"]]
        tokens = index.tokens(row["step"])[row["row"]]
        cells = (
            str(row["step"]),
            f'<a href="{escape(group_url(index.role, row))}">{row["group_id"]}</a>',
            escape(text),
            escape(row["data_source"] or ""),
            share(row["agreement"]),
            share(row["margin"]),
            f"<code>{escape(row['label'] or '')}</code>",
            escape(row["end_state"] or ""),
            RIGHT[int(index.right[place])],
            "flipped" if row["flipped"] else "",
            str(row["distinct"]),
            "" if np.isnan(tokens) else f"{tokens:.0f}",
        )
        made.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join(made)


def group_url(role: Role, row: dict[str, Any]) -> str:
    """Address of a group's page."""
    return "/group?" + urlencode({"role": role.value, "step": row["step"], "group": row["group_id"]})


def _form(run: RunIndex, chosen: Selection, index: RoleIndex) -> str:
    sources = sorted(set(index.table.column("data_source").unique().to_pylist()) - {None})

    def select(name: str, values: list[str]) -> str:
        options = "".join(
            f'<option value="{escape(value)}"{" selected" if value == getattr(chosen, name) else ""}>'
            f"{escape(value or 'any')}</option>"
            for value in values
        )
        return f'<label>{name} <select name="{name}">{options}</select></label> '

    def field(name: str, size: int) -> str:
        return f'<label>{name} <input name="{name}" size="{size}" value="{escape(getattr(chosen, name))}"></label> '

    return (
        '<form method="get" action="/">'
        + select("role", [role.value for role in run.roles] or ["train"])
        + field("steps", 7)
        + field("low", 4)
        + field("high", 4)
        + select("verdict", ["", "right", "wrong", "none"])
        + select("flipped", ["", "yes", "no"])
        + select("state", ["", *(state.value for state in EndState)])
        + select("source", ["", *sources])
        + field("text", 16)
        + select("sort", list(ORDERS))
        + select("order", ["down", "up"])
        + "<button>Show</button></form>"
    )


def group_page(run: RunIndex, role: Role, step: int, group_id: int, against: RunIndex | None) -> str:
    """One group, with the prompt's other visits, in the other run too."""
    index = run.of(role)
    part, prompt_id = _group(index, step, group_id)
    here = group_name(0, role, {"step": step, "group_id": group_id})
    visits = _visits(index, 0, prompt_id, here)
    if against is not None:
        visits += _visits(against.of(role), 1, prompt_id, here)
    body = f'<p><a href="/">All groups</a></p><h1>Step {step}, group {group_id}</h1>{part}'
    return document(f"Step {step}, group {group_id}", f"{body}<h2>Visits of this prompt</h2><ul>{visits}</ul>")


def _visits(index: RoleIndex, number: int, prompt_id: str, here: str) -> str:
    ids = index.table.column("prompt_id").to_numpy(zero_copy_only=False)
    made = ""
    for row in index.table.take(np.flatnonzero(ids == prompt_id)).to_pylist():
        other = group_name(number, index.role, row)
        if other != here:
            link = escape(pair_url(here, other))
            name = f"{escape(index.run.name)}, step {row['step']}"
            label = escape(row["label"] or "no label")
            made += f'<li>{name}: {label}, agreement {share(row["agreement"])} <a href="{link}">side by side</a></li>'
    return made or (f"<li>{escape(index.run.name)}: no other</li>")


def pair_page(runs: list[RunIndex], a: str, b: str) -> str:
    """Two groups side by side, each named RUN:ROLE:STEP:GROUP with RUN 0 or 1."""
    sides = ""
    for name in (a, b):
        try:
            number, role, step, group = name.split(":")
            run = runs[int(number)]
            part, _ = _group(run.of(Role(role)), int(step), int(group))
        except (ValueError, IndexError) as error:
            raise DataError(f"got {name!r}, wanted RUN:ROLE:STEP:GROUP") from error
        sides += f"<div><h2>{escape(run.run.name)}, step {int(step)}</h2>{part}</div>"
    return document("Side by side", f'<p><a href="/">All groups</a></p><div class="sides">{sides}</div>')


def _group(index: RoleIndex, step: int, group_id: int) -> tuple[str, str]:
    place = index.find(step, group_id)
    if place is None:
        raise DataError(f"no group {group_id} in step {step}; see the list for what there is")
    row = index.table.slice(place, 1).to_pylist()[0]
    group = read_row(index.path(step), row["row"])
    verdict = index.verdict(place)
    audit = index.verdicts.row(verdict) if verdict else {}
    facts = {
        "pseudo-label": group["pseudo_label"],
        "agreement": share(row["agreement"]),
        "margin": share(row["margin"]),
        "label from": group["provenance"],
        "end state": group["end_state"],
        "jury": group["jury_provenance"] or None,
        "reference": audit.get("reference"),
        "majority": {True: "right", False: "wrong"}.get(audit.get("is_correct"), "not audited"),
        "completions right": share(audit.get("average_accuracy")),
        "change": audit.get("change"),
    }
    lines = "".join(
        f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items() if value is not None
    )
    prompt = escape(cut(group["prompt_text"] or "", SHOWN_CHARACTERS))
    return f"<pre>{prompt}</pre><table>{lines}</table>{_clusters(group)}", row["prompt_id"]


def _clusters(group: dict[str, Any]) -> str:
    completions = group["completions"] or []
    cluster = group["cluster"] or [-1] * len(completions)
    by_cluster: dict[int, list[int]] = {}
    for place, number in enumerate(cluster):
        by_cluster.setdefault(number, []).append(place)
    made = ""
    for number, members in sorted(by_cluster.items(), key=lambda item: (item[0] < 0, -len(item[1]))):
        name = "no answer" if number < 0 else group["representatives"][number]
        elected = ' <span class="tag won">elected</span>' if number == group["label_cluster"] and number >= 0 else ""
        inside = "".join(_completion(group, place) for place in members)
        title = f"<code>{escape(cut(name, 200))}</code> x{len(members)}{elected}"
        made += f'<section class="cluster"><h3>{title}</h3>{inside}</section>'
    return made


def _completion(group: dict[str, Any], place: int) -> str:
    made = group["completions"][place]
    logprobs = made["rollout_logprobs"] or []

    def of(name: str) -> Any:
        return (group[name] or {place: None})[place]

    facts = [
        f"#{made['index']}",
        "no reward" if of("rewards") is None else f"reward {of('rewards'):g}",
        "not trained on" if of("train_mask") is False else "",
        of("outcomes"),
        "" if of("weights") is None else f"vote weight {of('weights'):.3g}",
        made["finish_reason"],
        f"{len(made['token_ids'])} tokens",
        f"mean logprob {np.mean(logprobs):.3f}" if logprobs else "",
        "" if of("entropies") is None else f"entropy {of('entropies'):.3f}",
        _versions(made["spans"] or []),
    ]
    said = escape(" | ".join(filter(None, facts)))
    return f'<p class="note">{said}</p><pre>{escape(cut(made["text"], SHOWN_CHARACTERS))}</pre>'


def _versions(spans: list[dict[str, int]]) -> str:
    """Policy versions that sampled the completion: "version 3", or "version 3, 4 from token 120"."""
    later = [f"{span['version']} from token {span['start']}" for span in spans[1:]]
    return ", ".join([f"version {spans[0]['version']}", *later]) if spans else ""
