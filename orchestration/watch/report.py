"""report.html: what a run did, as one self-contained file. `story` says the same in plain text."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from configs.load import dump_config
from orchestration.run_dir import write_atomic
from orchestration.watch.display import format_value
from orchestration.watch.metrics import METRICS, TIME_PARTS
from orchestration.watch.report_audit import Between, changed_sections, pass_rate_card, threshold_section
from orchestration.watch.report_page import card, cut, page, section, table, tile
from orchestration.watch.run_view import RunView, SampleGroup, SamplePrompt
from orchestration.watch.story import clock, ending, sentences, story, telling, where_to_look
from orchestration.watch.svg import Series, line_chart, number, share, stacked_chart

__all__ = ["story", "write_report"]

COMPLETIONS_SHOWN = 3
CHARACTERS_SHOWN = 1500
VOTES_SHOWN = 6

PLOTS: tuple[tuple[str, dict[str, str], Callable[[float], str], str], ...] = (
    (
        "Reward and agreement",
        {
            "vote/reward_mean": "reward",
            "vote/agreement_mean": "agreement",
            "vote/majority_ratio_mean": "majority ratio",
        },
        share,
        "The majority ratio counts the largest cluster of every group, elected or not.",
    ),
    (
        "Audited accuracy in training",
        {
            "audit/label_accuracy": "pseudo-labels",
            "audit/majority_accuracy": "majority",
            "audit/average_accuracy": "average",
            "audit/generation_verification_gap": "gap",
            "audit/reward_accuracy": "rewards",
        },
        share,
        "Against references, apart from training. The gap is majority minus average: what voting can still teach.",
    ),
    (
        "One answer for everything?",
        {"vote/modal_answer_share": "prompts with the answer most common over prompts"},
        share,
        "Rising towards 100%: the policy collapses to one answer.",
    ),
    (
        "Votes without a lesson",
        {
            "vote/unanimous_share": "unanimous groups",
            "vote/no_label_share": "groups without label",
            "vote/abstain_share": "completions without answer",
        },
        share,
        "",
    ),
    (
        "Different answers",
        {"vote/distinct_answers_per_prompt": "per prompt", "vote/distinct_answers": "over prompts"},
        number,
        "",
    ),
    (
        "Entropy of answers",
        {"vote/answer_entropy_mean": "within a group", "vote/modal_answer_entropy": "over prompts"},
        number,
        "In nats. Over prompts it falls towards 0 when one answer wins everywhere.",
    ),
    (
        "Labels that changed",
        {"vote/label_flip_share": "prompts with another label than at their last visit"},
        share,
        "",
    ),
    (
        "Completions without a vote",
        {
            "vote/unparsed_share": "no answer found",
            "vote/truncated_share": "truncated",
            "vote/timed_out_share": "timed out",
            "vote/error_share": "error",
        },
        share,
        "",
    ),
    ("Entropy", {"learn/entropy_mean": "nats per token"}, number, ""),
    ("KL to the base model", {"learn/kl_mean": "nats per token"}, number, ""),
    ("Completion length", {"rollout/completion_tokens_mean": "tokens"}, number, ""),
    ("Truncated completions", {"rollout/truncated_share": "cut at the limit"}, share, ""),
    (
        "Sampler against learner",
        {"sync/logprob_gap_mean": "mean |log-probability gap|"},
        number,
        "Of trained tokens, before the update. A jump means the samplers do not hold the learner's weights.",
    ),
    ("Gradient norm", {"learn/grad_norm": "before clipping"}, number, ""),
    ("Speed", {"rollout/tokens_per_second": "completion tokens per second of rollout"}, number, ""),
)


def write_report(run_dir: str | Path, between: Between = None) -> Path:
    """Write report.html of a run: finished, killed or still going.

    Args:
        run_dir: the run directory.
        between: steps of the two evaluations whose prompts are compared; None takes the first and the last.

    Returns:
        The file's path.

    Raises:
        DataError: not a run directory, a file in it is not readable, or no evaluation was scored at a named step.
        StorageError: the report cannot be written.
    """
    view = RunView(run_dir)
    path = view.path / "report.html"
    write_atomic(path, render(view, between))
    return path


def render(view: RunView, between: Between = None) -> str:
    """The report as HTML."""
    sources = ", ".join(source.path for source in view.config.data.train)
    body = [
        f"<h1>{escape(view.path.name)}</h1>",
        f'<p class="sub">{escape(view.config.model.path)} on {escape(sources)} &middot; {escape(ending(view))}</p>',
        _lead(view),
        _tiles(view),
        section("Curves", _plots(view)),
        section("Evaluation", _evaluation_table(view), "Percent, with 95% bootstrap intervals over prompts."),
        section("The same prompts, before and after", _samples(view), "From the largest gain to the largest loss."),
        *changed_sections(view, between),
        threshold_section(view),
        section("Metrics", _metric_table(view)),
        section("Where to look", _places(view)),
        section("Configuration", _config(view)),
    ]
    return page(f"Quorum: {view.path.name}", "\n".join(part for part in body if part))


def _lead(view: RunView) -> str:
    parts = []
    for sentence in sentences(view):
        kind = ' class="warning"' if sentence.startswith("Warning") else ""
        parts.append(f"<span{kind}>{escape(sentence)}</span>")
    return f'<p class="lead">{" ".join(parts)}</p>'


def _tiles(view: RunView) -> str:
    tiles = []
    if view.evaluations:
        first, last = view.evaluations[0], view.evaluations[-1]
        n = last["macro"]["num_completions"]
        for name, title in (("eval/average_accuracy", f"avg@{n}"), ("eval/majority_accuracy", f"maj@{n}")):
            tiles.append(tile(f"Held-out {title}", share(last[name]), f"from {share(first[name])}"))
    for name, title in (("vote/agreement_mean", "Agreement"), ("audit/label_accuracy", "Pseudo-labels right")):
        ends = view.ends(name, 5)
        if ends is not None:
            tiles.append(tile(title, share(ends[1]), f"from {share(ends[0])}"))
    tiles.append(tile("Steps", f"{view.steps_done:,}", f"of {view.config.run.num_steps:,}"))
    _, seconds = view.series("time/step_seconds")
    if seconds:
        total = sum(value or 0.0 for value in seconds)
        tiles.append(tile("Training time", clock(total), f"{number(total / len(seconds))} s per step"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _plots(view: RunView) -> str:
    cards = [_evaluation_plot(view)]
    for title, names, shown, note in PLOTS:
        lines = [Series(label, *view.series(name)) for name, label in names.items()]
        cards.append(card(title, line_chart(lines, shown=shown), note))
    times = [Series(part, *view.series(f"time/{part}_seconds")) for part in TIME_PARTS]
    if len({len(line.xs) for line in times}) == 1:
        cards.append(card("Time split of a step", stacked_chart(times), "Seconds; the parts sum to the step."))
    cards.append(pass_rate_card(view))
    drawn = "".join(cards)
    return f'<div class="plots">{drawn}</div>' if drawn else ""


def _evaluation_plot(view: RunView) -> str:
    if not view.evaluations:
        return ""
    steps = [row["step"] for row in view.evaluations]
    n = view.evaluations[-1]["macro"]["num_completions"]
    lines = []
    for name, title in (("average_accuracy", f"avg@{n}"), ("majority_accuracy", f"maj@{n}")):
        values, lows, highs = zip(*(row["macro"][name] for row in view.evaluations), strict=True)
        lines.append(Series(title, steps, values, lows, highs))
    return card("Held-out accuracy", line_chart(lines, shown=share), "Bands are 95% bootstrap intervals.")


def _evaluation_table(view: RunView) -> str:
    rows = []
    for evaluation in view.evaluations:
        named: dict[str, Any] = dict(evaluation["sources"])
        if len(named) > 1:
            named["macro average"] = evaluation["macro"]
        for name, figures in named.items():
            passes = figures["pass_accuracy"]
            k = str(figures["num_completions"])
            cells = [figures["average_accuracy"], figures["majority_accuracy"], passes[k]]
            shown = [f"{100 * value:.1f}  [{100 * low:.1f}, {100 * high:.1f}]" for value, low, high in cells]
            rows.append([str(evaluation["step"]), name, f"{figures['num_prompts']:,}", k, *shown])
    return table(["after step", "data source", "prompts", "n", "avg@n", "maj@n", "pass@n"], rows, {0, 2, 3, 4, 5, 6})


def _samples(view: RunView) -> str:
    return "".join(_sample(sample) for sample in view.samples(view.config.report.num_sample_prompts))


def _sample(sample: SamplePrompt) -> str:
    sides = [
        _side(title, group)
        for title, group in (("Before", sample.before), ("After", sample.after))
        if group is not None
    ]
    reference = ""
    if sample.reference is not None:
        reference = (
            f'<p class="note">Reference answer, seen by the audit only: <code>{escape(sample.reference)}</code></p>'
        )
    prompt = f"<pre>{escape(cut(sample.prompt_text, CHARACTERS_SHOWN))}</pre>"
    return f'<div class="card sample">{prompt}{reference}<div class="sides">{"".join(sides)}</div></div>'


def _side(title: str, group: SampleGroup) -> str:
    total = len(group.answers)
    votes = [(answer, size, answer == group.majority) for answer, size in group.votes[:VOTES_SHOWN]]
    rest = sum(size for _, size in group.votes[VOTES_SHOWN:])
    abstained = total - sum(size for _, size in group.votes)
    votes += [("other answers", rest, False)] * bool(rest) + [("no answer", abstained, False)] * bool(abstained)
    bars = "".join(
        f'<div class="vote{" won" if won else ""}"><code>{escape(answer)}</code>'
        f'<i style="width:{100 * size / total:.0f}%"></i><span>{size}/{total}</span></div>'
        for answer, size, won in votes
    )
    texts = []
    for index in telling(group, COMPLETIONS_SHOWN):
        answer = group.answers[index]
        stated = "no answer" if answer is None else f"answer {answer}"
        mark = ", as elected" if answer is not None and answer == group.majority else ""
        texts.append(
            f'<span class="tag{" won" if mark else ""}">completion {index}: {escape(stated)}{mark}</span>'
            f"<pre>{escape(cut(group.texts[index], CHARACTERS_SHOWN))}</pre>"
        )
    return f'<div><h3>{title}, step {group.step}</h3><div class="votes">{bars}</div>{"".join(texts)}</div>'


def _metric_table(view: RunView) -> str:
    rows = []
    for name, spec in METRICS.items():
        steps, values = view.series(name)
        if steps and values[0] is not None and values[-1] is not None:
            ends = [format_value(name, value) for value in (values[0], values[-1])]
            rows.append([name, *ends, spec.unit, spec.help])
    return table(["metric", "first", "last", "unit", "meaning"], rows, {1, 2})


def _places(view: RunView) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in where_to_look(view))
    return f"<ul>{lines}</ul>" if lines else ""


def _config(view: RunView) -> str:
    text = escape(dump_config(view.config))
    return f"<details><summary>config.yaml, every value resolved</summary><pre>{text}</pre></details>"
