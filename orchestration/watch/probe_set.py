"""What the evaluation prompts say of a policy without any reference: is its majority still the frozen anchor's?

The anchor is the policy before the first step. Its answers are those of the run's first evaluation; they are kept in
`probe.jsonl`, one durable row per evaluation, so that a resume or a rollback compares with the same ones at no cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.watch.jsonl import append_rows, current_rows, read_rows
from orchestration.watch.vote_metrics import modal_answers
from quorum.types import Outcome, Tally

FILE_NAME = "probe.jsonl"
Answers = Mapping[str, frozenset[str]]
"""By prompt id every text that was counted as the majority answer; prompts without a majority are left out."""


def majority_texts(tally: Tally) -> frozenset[str]:
    """Every answer in the largest cluster of a group; empty on a tie for it, and when nobody answered."""
    top = max(tally.sizes, default=0)
    winners = [number for number, size in enumerate(tally.sizes) if size == top]
    return _texts(tally, winners[0]) if top and len(winners) == 1 else frozenset()


def majorities(tallies: Sequence[Tally], prompt_ids: Sequence[str]) -> dict[str, frozenset[str]]:
    """The majority answers of an evaluation.

    Args:
        tallies: [P] of its groups.
        prompt_ids: [P] of the groups' prompts.
    """
    found = {name: majority_texts(tally) for name, tally in zip(prompt_ids, tallies, strict=True)}
    return {name: texts for name, texts in found.items() if texts}


def same_share(answers: Answers, others: Answers) -> float | None:
    """Share of the prompts in `others` whose majority answer is the same one in `answers`.

    A prompt without a majority in `answers` counts as different: a policy that stopped answering agrees with nobody.

    Returns:
        In [0, 1]; None when `others` is empty.

    Example:
        >>> same_share({"a": frozenset({"7"})}, {"a": frozenset({"7", "7.0"}), "b": frozenset({"8"})})
        0.5
    """
    if not others:
        return None
    return sum(bool(texts & answers.get(name, frozenset())) for name, texts in others.items()) / len(others)


def probe_metrics(
    tallies: Sequence[Tally], prompt_ids: Sequence[str], anchor: Answers, before: Answers
) -> dict[str, float]:
    """Metrics of one evaluation that need no reference.

    Args:
        tallies: [P] of its groups.
        prompt_ids: [P] of the groups' prompts.
        anchor: majority answers of the run's first evaluation; empty where there are none.
        before: majority answers of the evaluation before this one; empty for the first.

    Returns:
        eval/* metrics by name; what cannot be compared is left out. Empty for no groups.
    """
    if not tallies:
        return {}
    now = majorities(tallies, prompt_ids)
    num_completions = sum(len(tally.answers) for tally in tallies)
    modal = modal_answers(tallies, prompt_ids)
    values = {
        "eval/agreement_mean": sum(max(t.sizes, default=0) / len(t.answers) for t in tallies) / len(tallies),
        "eval/abstain_share": sum(outcome is not Outcome.ANSWERED for t in tallies for outcome in t.outcomes)
        / num_completions,
        "eval/distinct_answers": float(len(modal)),
    }
    if modal:
        values["eval/modal_answer_share"] = max(modal.values()) / sum(modal.values())
    agreement, flips = same_share(now, anchor), same_share(now, before)
    if agreement is not None:
        pairs = [(t, anchor[name]) for name, t in zip(prompt_ids, tallies, strict=True) if name in anchor]
        values["eval/anchor_agreement"] = agreement
        values["eval/anchor_vote_share"] = sum(_share_of(*pair) for pair in pairs) / max(1, len(pairs))
        values["eval/health"] = values["eval/anchor_vote_share"] * (
            1.0 - max(0.0, _modal_share(now) - _modal_share(anchor))
        )
    if flips is not None:
        values["eval/label_flip_share"] = 1.0 - flips
    return values


def consistency(tallies: Sequence[Tally], others: Sequence[Tally]) -> float | None:
    """Share of prompts whose majority answer is the same in two draws of them, at two temperatures say.

    Args:
        tallies: [P] of one draw.
        others: [P] of the same prompts in the other.

    Returns:
        In [0, 1], over the prompts of which `others` has a majority; None when it has none.
    """
    names = [str(index) for index in range(len(tallies))]
    return same_share(majorities(tallies, names), majorities(others, names))


@dataclass(frozen=True, slots=True)
class ProbeBook:
    """The majority answers of a run's evaluations, on disk."""

    run_path: Path

    def anchor(self) -> Answers:
        """Of the policy before the first step; empty before it was evaluated."""
        first = next((row for row in self._rows() if row["step"] == 0), None)
        return {} if first is None else _read(first)

    def before(self, step: int) -> Answers:
        """Of the last evaluation after fewer than `step` steps; empty without one."""
        earlier = [rows[-1] for at, rows in current_rows(self._rows()).items() if at < step]
        return _read(earlier[-1]) if earlier else {}

    def write(self, step: int, branch: int, incarnation: int, answers: Answers) -> None:
        """Keep an evaluation's answers, durable on return. Raises StorageError."""
        kept = {name: sorted(texts) for name, texts in answers.items()}
        row = {"step": step, "branch": branch, "incarnation": incarnation, "answers": kept}
        append_rows(self.run_path / FILE_NAME, [row])

    def _rows(self) -> list[dict[str, Any]]:
        return read_rows(self.run_path / FILE_NAME)


def _modal_share(answers: Answers) -> float:
    """Share of prompts with the majority answer that most of them have."""
    counts = Counter(min(texts) for texts in answers.values())
    return max(counts.values(), default=0) / max(1, len(answers))


def _read(row: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    return {name: frozenset(texts) for name, texts in row["answers"].items()}


def _texts(tally: Tally, cluster: int) -> frozenset[str]:
    pairs = zip(tally.answers, tally.cluster, strict=True)
    return frozenset(answer for answer, number in pairs if number == cluster and answer is not None)


def _share_of(tally: Tally, texts: frozenset[str]) -> float:
    """Share of a group's completions that gave an answer counted as one of `texts`."""
    pairs = list(zip(tally.answers, tally.cluster, strict=True))
    meant = {number for answer, number in pairs if answer in texts}
    return sum(number in meant for _, number in pairs) / len(pairs)
