"""A run in words: what it did, what came of it, what to worry about, and where to look."""

from __future__ import annotations

import textwrap
from pathlib import Path

from configs.schema import RunConfig
from orchestration.watch.run_view import RunView, SampleGroup, SamplePrompt
from orchestration.watch.svg import number, share
from orchestration.watch.transitions import table_lines

COLLAPSE_SHARE = 0.5
"""A most common answer on more prompts than this is called a sign of collapse."""
LOGPROB_GAP = 0.02
"""A larger mean |sampler - learner| gap is worth a look."""
_WINDOW = 5


def sentences(view: RunView) -> list[str]:
    """What happened, one statement per sentence; needs neither evaluation nor audit."""
    parts = [_what_was_done(view), *_evaluated(view), *_voted(view), *_audited(view), *_changed(view), *_signs(view)]
    return [part for part in parts if part]


def ending(view: RunView) -> str:
    """How the run stands, as one phrase."""
    state, message = view.info.get("state", "running"), view.info.get("message", "")
    total = view.config.run.num_steps
    if state == "done":
        return "finished"
    reason = f" ({message})" if message else ""
    where = f"after {view.steps_done} of {total} steps"
    if state == "running":
        return f"still going or killed {where}"
    return f"{state} {where}{reason}"


def clock(seconds: float) -> str:
    """A duration as people say it.

    Example:
        >>> clock(42.4), clock(252), clock(9000)
        ('42 s', '4 min 12 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _what_was_done(view: RunView) -> str:
    config, steps = view.config, view.steps_done
    if not steps:
        return f"No training step was finished ({ending(view)})."
    completions = steps * config.rollout.prompts_per_step * config.rollout.completions_per_prompt
    _, seconds = view.series("time/step_seconds")
    took = f" in {clock(sum(value or 0 for value in seconds))} of training" if seconds else ""
    stands = "" if ending(view) == "finished" else f" The run is {ending(view)}."
    if config.run.mode == "rollout_only":
        return (
            f"{config.model.path} answered and voted for {steps} of {config.run.num_steps} steps: "
            f"{completions:,} completions in all{took}. Nothing was learned (run.mode=rollout_only).{stands}"
        )
    return (
        f"{config.model.path} trained itself for {steps} of {config.run.num_steps} steps {_on_which_labels(config)}: "
        f"{config.rollout.prompts_per_step} prompts x {config.rollout.completions_per_prompt} completions per step, "
        f"{completions:,} completions in all{took}.{stands}"
    )


def _on_which_labels(config: RunConfig) -> str:
    name = config.voting.labels.name
    return "without labels" if name == "vote" else f"on labels from elsewhere (voting.labels: {name})"


def _moved(before: float, after: float) -> str:
    points = 100 * (after - before)
    if abs(points) < 0.05:
        return f"stayed at {share(after)}"
    verb = "rose" if points > 0 else "fell"
    return f"{verb} from {share(before)} to {share(after)} ({points:+.1f} points)"


def _evaluated(view: RunView) -> list[str]:
    evaluations = view.evaluations
    if not evaluations:
        return ["There was no scored evaluation, so how right the answers are is not known."]
    first, last = evaluations[0], evaluations[-1]
    n, prompts = last["macro"]["num_completions"], last["eval/num_prompts"]
    if len(evaluations) == 1:
        average = share(first["eval/average_accuracy"])
        majority = share(first["eval/majority_accuracy"])
        scores = f"avg@{n} {average}, maj@{n} {majority}"
        return [f"Evaluated once, after {first['step']} steps on {prompts:,} held-out prompts: {scores}."]
    low, high = last["macro"]["average_accuracy"][1:]
    average = _moved(first["eval/average_accuracy"], last["eval/average_accuracy"])
    majority = _moved(first["eval/majority_accuracy"], last["eval/majority_accuracy"])
    return [
        f"On {prompts:,} held-out prompts the share of right answers (avg@{n}) {average}, "
        f"95% interval {share(low)} to {share(high)}.",
        f"The majority of {n} (maj@{n}) {majority}.",
    ]


def _voted(view: RunView) -> list[str]:
    agreement = view.ends("vote/agreement_mean", _WINDOW)
    return [f"Agreement with the elected answer {_moved(*agreement)} over training."] if agreement else []


def _audited(view: RunView) -> list[str]:
    labels = view.ends("audit/label_accuracy", _WINDOW)
    if labels is None:
        return []
    return [
        f"The pseudo-labels were right in {share(labels[0])} of cases at first and {share(labels[1])} at last, "
        "as an audit apart from training found."
    ]


def _changed(view: RunView) -> list[str]:
    lost, gained = view.changed_prompts()
    if not lost and not gained:
        return []
    back = sum(row["is_correct"] for row in lost)
    prompts = "prompt" if len(gained) == 1 else "prompts"
    return [
        f"{len(gained):,} {prompts} went from a wrong to a right majority answer, {len(lost) - back:,} from right to "
        f"wrong, and {back:,} {'was' if back == 1 else 'were'} lost and came back."
    ]


def _signs(view: RunView) -> list[str]:
    signs = []
    modal = view.ends("vote/modal_answer_share", _WINDOW)
    if modal is not None and modal[1] > COLLAPSE_SHARE and modal[1] > 1.5 * modal[0]:
        signs.append(
            f"Warning: one answer is the most common one on {share(modal[1])} of the prompts: a sign of collapse."
        )
    elif modal is not None:
        signs.append(
            f"No sign of collapse: the answer most common over prompts has a share of {share(modal[1])} of them."
        )
    gap = view.ends("sync/logprob_gap_mean", _WINDOW)
    if gap is not None and gap[1] > LOGPROB_GAP:
        signs.append(
            f"Warning: sampler and learner differ by {number(gap[1])} nats per token, more than {LOGPROB_GAP}."
        )
    no_label = view.ends("vote/no_label_share", _WINDOW)
    if no_label is not None and no_label[1] > 0.5:
        signs.append(f"Warning: {share(no_label[1])} of the groups elected no label, so they taught nothing.")
    return signs


def where_to_look(view: RunView) -> list[str]:
    """(what, path) lines of what the run left."""
    places = {
        "report": "report.html",
        "model": "model",
        "groups, one Parquet file per step": "groups",
        "metrics, one row per step": "metrics.jsonl",
        "audit against reference answers": "audit",
        "configuration": "config.yaml",
    }
    lines = [f"{what}: {view.path / name}" for what, name in places.items() if (view.path / name).exists()]
    if (view.path / "tensorboard").is_dir():
        lines.append(f"plots: tensorboard --logdir {view.path}")
    if view.info.get("state", "running") != "done":
        name = view.info.get("submitted_as")
        lines.append(f"continue: quorum resume {name}" if name else f"continue: quorum train --resume {view.path}")
    return lines


def story(run_dir: str | Path, between: tuple[int, int] | None = None) -> str:
    """The plain-text ending of a run: what happened in words, a few prompts before and after, where to look.

    Args:
        run_dir: of a run, finished or not.
        between: steps of the two evaluations whose prompts are compared; None takes the first and the last.

    Raises:
        DataError: not a run directory, a file in it is not readable, or no evaluation was scored at a named step.
    """
    view = RunView(run_dir)
    lines = ["", "What happened", ""]
    lines += textwrap.wrap(" ".join(sentences(view)), 100, initial_indent="  ", subsequent_indent="  ")
    found = view.transitions(*(between or (None, None)))
    if found is not None:
        lines += ["", "Right and wrong, before and after", "", *(f"  {line}" for line in table_lines(found))]
    samples = view.samples(view.config.report.num_sample_prompts)
    if samples:
        lines += ["", "The same prompts before and after, from the largest gain to the largest loss"]
    for sample in samples:
        lines += ["", *_sample_lines(sample)]
    lines += ["", "Where to look", "", *(f"  {line}" for line in where_to_look(view))]
    return "\n".join(lines)


def _sample_lines(sample: SamplePrompt) -> list[str]:
    reference = "" if sample.reference is None else f"   [reference, for the audit only: {sample.reference}]"
    lines = [f"  prompt: {_short(sample.prompt_text, 160)}{reference}"]
    for title, group in (("before", sample.before), ("after ", sample.after)):
        if group is not None:
            lines.append(f"    {title} vote: {votes_of(group)}")
            lines += [f"           {_short(group.texts[index], 90)}" for index in telling(group, 2)]
    return lines


def votes_of(group: SampleGroup, limit: int = 6) -> str:
    """A vote in one line, most common answer first."""
    shown = [f"{_short(answer, 24)} x{size}" for answer, size in group.votes[:limit]]
    rest = sum(size for _, size in group.votes[limit:])
    abstained = len(group.answers) - sum(size for _, size in group.votes)
    shown += [f"other x{rest}"] * bool(rest) + [f"no answer x{abstained}"] * bool(abstained)
    return ", ".join(shown)


def telling(group: SampleGroup, count: int) -> list[int]:
    """Completions that show the vote: one per answer, the most common answer's first, then others in order."""
    order = {answer: rank for rank, (answer, _) in enumerate(group.votes)}
    first: dict[str | None, int] = {}
    for index, answer in enumerate(group.answers):
        first.setdefault(answer, index)
    ranked = sorted(first, key=lambda answer: (order.get(answer or "", len(order)), first[answer]))
    chosen = [first[answer] for answer in ranked]
    chosen += [index for index in range(len(group.answers)) if index not in chosen]
    return chosen[:count]


def _short(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 3] + "..."
