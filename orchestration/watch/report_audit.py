"""Parts of report.html about right and wrong: prompts lost and gained, accuracy by agreement, pass rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestration.watch.audit_scores import PASS_RATE_BINS
from orchestration.watch.report_page import card, cut, section, table
from orchestration.watch.run_view import RunView
from orchestration.watch.svg import Series, line_chart, share, stacked_chart
from orchestration.watch.thresholds import pooled
from orchestration.watch.transitions import Transitions
from quorum.types import Role

Between = tuple[int, int] | None
"""Steps of the two evaluations to compare; None takes the first and the last."""

CHANGED_SHOWN = 25
"""Prompts of a list that are open; the others are folded in."""
CHANGED_MAX = 500
STEPS_POOLED = 50
"""The last so many training steps make one curve: a single step holds too few prompts for one."""


def changed_sections(view: RunView, between: Between) -> list[str]:
    """The 2 x 2 table of two evaluations, and the prompts that were lost, lost in between, and gained.

    Raises:
        DataError: no evaluation was scored at one of the two points.
    """
    found = view.transitions(*(between or (None, None)))
    if found is None:
        return []
    lost, gained = ([row.prompt_id for row in part] for part in (found.right_to_wrong, found.wrong_to_right))
    swung = [row for row in view.changed_prompts()[0] if row["prompt_id"] not in lost]
    came_back = {row["prompt_id"]: "came back" if row["is_correct"] else "wrong in the end" for row in swung}
    old, new = found.points
    return [
        section("Right and wrong, before and after", _matrix(found), f"Majority answers: evaluation {old} and {new}."),
        section(
            f"Prompts that went from right to wrong ({len(lost):,})",
            _prompts(view, dict.fromkeys(lost, "lost")),
            f"Right {old}, wrong {new}.",
        ),
        section(f"Prompts that were lost at another time ({len(came_back):,})", _prompts(view, came_back)),
        section(
            f"Prompts that went from wrong to right ({len(gained):,})",
            _prompts(view, dict.fromkeys(gained, "gained")),
            f"Wrong {old}, right {new}.",
        ),
    ]


def _matrix(found: Transitions) -> str:
    old, new = found.points
    rows = [
        [f"{title} {old}", *(f"{len(part):,}" for part in parts), f"{sum(map(len, parts)):,}"]
        for title, parts in zip(("right", "wrong"), found.matrix, strict=True)
    ]
    sums = [sum(map(len, parts)) for parts in zip(*found.matrix, strict=True)]
    rows.append(["prompts", *(f"{count:,}" for count in sums), f"{found.num_prompts:,}"])
    return table(["", f"right {new}", f"wrong {new}", "prompts"], rows, {1, 2, 3}, css="matrix")


def _prompts(view: RunView, fates: Mapping[str, str]) -> str:
    rows = [_row(view, prompt_id, fate) for prompt_id, fate in fates.items()]
    head = ["prompt", "reference", "majority answer after each evaluated step", ""]
    shown, folded = rows[:CHANGED_SHOWN], rows[CHANGED_SHOWN:CHANGED_MAX]
    if not folded:
        return table(head, shown, set())
    beyond = f", of which {CHANGED_MAX - CHANGED_SHOWN:,} are listed" if len(rows) > CHANGED_MAX else ""
    summary = f"<summary>and {len(rows) - CHANGED_SHOWN:,} more{beyond}</summary>"
    return f"{table(head, shown, set())}<details>{summary}{table(head, folded, set())}</details>"


def _row(view: RunView, prompt_id: str, fate: str) -> list[str]:
    history = ", ".join(
        f"{step}: {'no majority' if answer is None else answer} ({'right' if is_correct else 'wrong'})"
        for step, is_correct, answer in view.histories[prompt_id]
    )
    text = cut(" ".join(view.prompt_texts.get(prompt_id, prompt_id).split()), 200)
    reference = next(rows[prompt_id]["reference"] for rows in view.audited_prompts.values() if prompt_id in rows)
    return [text, reference, history, fate]


def threshold_section(view: RunView) -> str:
    """Accuracy and share of prompts by least agreement: the first and the last evaluation, and the last steps."""
    evaluated, trained = view.threshold_curves(Role.EVAL), view.threshold_curves(Role.TRAIN)
    ends = evaluated if len(evaluated) < 2 else [evaluated[0], evaluated[-1]]
    cards = [_threshold_card(f"Evaluation after {row['step']} steps", row) for row in ends]
    if trained:
        last = trained[-STEPS_POOLED:]
        steps = f"{last[0]['step']} to {last[-1]['step']}" if len(last) > 1 else str(last[0]["step"])
        cards.append(_threshold_card(f"Training, steps {steps}", pooled(last)))
    return section(
        "Accuracy against agreement",
        f'<div class="plots">{"".join(cards)}</div>' if cards else "",
        "Of the prompts whose largest cluster holds at least this share of all completions: how many there are, how "
        "often the majority answer is right (what a vote with this threshold would teach), and the share of right "
        "completions.",
    )


def _threshold_card(title: str, curve: Mapping[str, Any]) -> str:
    names = {"majority_accuracy": "majority", "average_accuracy": "average", "kept_share": "prompts kept"}
    lines = [Series(label, curve["threshold"], curve[name]) for name, label in names.items()]
    count = f"{curve['num_prompts']:,} prompts with a reference."
    return card(title, line_chart(lines, shown=share, x_name="agreement at least", x_shown=share), count)


def pass_rate_card(view: RunView) -> str:
    """How the step's prompts spread over pass rates, as areas that sum to 100%."""
    bins: Sequence[Series] = [Series(label, *view.series(name)) for name, label in PASS_RATE_BINS.items()]
    if len({tuple(line.xs) for line in bins}) != 1:
        return ""
    note = "The step's prompts by their share of right completions."
    return card("Pass rates in training", stacked_chart(bins, shown=share), note)
