"""An experiment's figure and table: SVG, Markdown and one HTML page, from the runs' curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from configs.experiment import ExperimentConfig
from orchestration.experiments.curves import Band, RunCurves, arm_curve, band
from orchestration.experiments.figures import ACCURACY, Runs, gains
from orchestration.experiments.matrix import Cell, matrix_rows
from orchestration.run_dir import write_atomic
from orchestration.watch.report_page import card, page, section, table
from orchestration.watch.svg import Series, line_chart, number, share

PLOTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Pseudo-reward", "vote/reward_mean", share),
    ("True accuracy, held out (avg@n)", ACCURACY, share),
    ("Majority accuracy, held out (maj@n)", "eval/majority_accuracy", share),
    ("True accuracy of the training groups", "audit/average_accuracy", share),
    ("Label accuracy", "audit/label_accuracy", share),
    ("Reward accuracy", "audit/reward_accuracy", share),
    ("KL to the base, nats per token", "learn/kl_mean", number),
    ("Entropy, nats per token", "learn/entropy_mean", number),
    ("Distinct answers per prompt", "vote/distinct_answers_per_prompt", number),
    ("Distinct answers over prompts", "vote/distinct_answers", number),
)
COLUMNS = {
    "label accuracy": ("audit/label_accuracy", share),
    "reward accuracy": ("audit/reward_accuracy", share),
    "pseudo-reward": ("vote/reward_mean", share),
    "KL": ("learn/kl_mean", number),
    "entropy": ("learn/entropy_mean", number),
    "distinct answers": ("vote/distinct_answers_per_prompt", number),
}
"""Of the table, at the last step."""
BANDS = (
    "Means over seeds; bands and +- are 95% t-intervals over seeds (mean +- t * s / sqrt(n)), and are left out with "
    "one seed. Gains are in points, from before the first to after the last step."
)
MAX_ARMS = 6
"""Lines with colours of their own."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What has to be known to repeat it."""

    name: str
    command: str
    commit: str
    config_hash: str
    machine: str

    def lines(self) -> list[str]:
        return [
            f"Command: `{self.command}`",
            f"Commit: `{self.commit}`",
            f"Configuration: `{self.config_hash}`",
            f"Machine: {self.machine}",
        ]


@dataclass(frozen=True, slots=True)
class Results:
    """An experiment's runs and what they decide."""

    experiment: ExperimentConfig
    runs: Runs
    figures: Mapping[str, float | None]
    cells: Sequence[Cell]
    origin: Provenance


def arm_rows(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: an arm each."""
    head = ["arm", "seeds", "before", "final", "peak", "gain in points", "final maj@n", *COLUMNS]
    rows = []
    for arm, held in runs.items():
        curve = arm_curve(held, ACCURACY)
        values = [point.mean for point in curve.values()]
        ends = [share(values[0]), share(values[-1]), share(max(values))] if values else ["", "", ""]
        gained = _points(gains(held))
        majority = _last(held, "eval/majority_accuracy", share)
        others = [_last(held, name, shown) for name, shown in COLUMNS.values()]
        rows.append([arm, str(len(held)), *ends, gained, majority, *others])
    return head, rows


def markdown(results: Results) -> str:
    """The whole of NAME.md."""
    experiment, origin = results.experiment, results.origin
    manifest, seeds = experiment.evaluation, ", ".join(map(str, range(experiment.seeds)))
    temperatures = ", ".join(f"{value:g}" for value in manifest.temperatures)
    parts = [f"# {experiment.title}", ""]
    parts += [experiment.source, ""] if experiment.source else []
    parts += [f"- {line}" for line in origin.lines()]
    parts += [
        f"- Every arm measured alike: {manifest.completions} completions per prompt at temperature {temperatures}, "
        f"seeds {seeds}",
        "",
        f"![Curves of every arm]({origin.name}.svg)",
        "",
        *_markdown_table(*arm_rows(results.runs)),
        "",
        BANDS,
        "",
    ]
    if results.figures:
        parts += ["## Figures", ""]
        parts += [*_markdown_table(["figure", "value"], _figure_rows(results.figures)), ""]
    head, rows = matrix_rows(results.cells)
    if rows:
        parts += ["## Trained on, tested on", "", *_markdown_table(head, rows), ""]
        parts += ["avg@n / maj@n in percent, means over seeds.", ""]
    return "\n".join(parts)


def html(results: Results) -> str:
    """The page."""
    experiment = results.experiment
    head, rows = arm_rows(results.runs)
    body = [
        f"<h1>{escape(experiment.title)}</h1>",
        f'<p class="sub">{escape(experiment.source)}</p>' if experiment.source else "",
        "".join(f'<p class="note">{escape(line.replace("`", ""))}</p>' for line in results.origin.lines()),
        section("Arms", table(head, rows, set(range(1, len(head)))), BANDS),
        section("Figures", table(["figure", "value"], _figure_rows(results.figures), {1})),
        section("Curves", f'<div class="plots">{"".join(card(t, chart) for t, chart in charts(results.runs))}</div>'),
    ]
    head, rows = matrix_rows(results.cells)
    body.append(section("Trained on, tested on", table(head, rows, set()), "avg@n / maj@n in percent."))
    return page(f"Quorum: {experiment.title}", "\n".join(part for part in body if part))


def charts(runs: Runs) -> list[tuple[str, str]]:
    """(title, legend and <svg>) of every plot that has something to show."""
    drawn = []
    for title, metric, shown in PLOTS:
        lines = [_series(arm, arm_curve(held, metric)) for arm, held in list(runs.items())[:MAX_ARMS]]
        chart = line_chart(lines, shown=shown)
        if chart:
            drawn.append((title, chart))
    return drawn


def write(results: Results, folder: Path) -> list[Path]:
    """Write NAME.md, NAME.svg and NAME.html into a directory. Raises StorageError."""
    from orchestration.experiments.sheet import sheet

    name = results.origin.name
    texts = {f"{name}.md": markdown(results), f"{name}.html": html(results)}
    texts[f"{name}.svg"] = sheet(results.experiment.title, list(results.runs)[:MAX_ARMS], charts(results.runs))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_atomic(folder / file, text)
    return [folder / file for file in texts]


def _series(arm: str, curve: Mapping[int, Band]) -> Series:
    points = list(curve.values())
    lows = [point.low for point in points if point.low is not None]
    highs = [point.high for point in points if point.high is not None]
    return Series(arm, list(curve), [point.mean for point in points], lows, highs)


def _points(values: Sequence[float]) -> str:
    if not values:
        return ""
    found = band(values)
    half = "" if found.high is None else f" +- {100 * (found.high - found.mean):.1f}"
    return f"{100 * found.mean:+.1f}{half}"


def _last(runs: Sequence[RunCurves], metric: str, shown: Callable[[float], str]) -> str:
    curve = arm_curve(runs, metric)
    return shown(curve[max(curve)].mean) if curve else ""


def _figure_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    return [[name, "not defined" if value is None else f"{value:.4f}"] for name, value in figures.items()]


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
