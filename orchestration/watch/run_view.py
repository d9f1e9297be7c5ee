"""What a run directory holds, read once for the report and the story. Works for a run that was killed at any moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.schema import RunConfig
from orchestration.group_table import GroupFile, closed_files
from orchestration.run_dir import read_config
from orchestration.watch.audit import THRESHOLDS_FILE
from orchestration.watch.jsonl import current_rows, read_rows
from orchestration.watch.metrics import read_metrics
from orchestration.watch.transitions import Transitions, histories, prompt_rows, transitions
from quorum.types import Role

_COLUMNS = [
    *("group_id", "prompt_id", "data_source", "prompt_text", "answers", "cluster", "sizes", "representatives"),
    *("completions.list.element.text", "completions.list.element.finish_reason"),
]


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """One prompt's completions and their vote at one time."""

    step: int
    texts: tuple[str, ...]
    answers: tuple[str | None, ...]
    """[k]"""
    votes: tuple[tuple[str, int], ...]
    """(answer, completions that gave it), most first."""
    majority: str | None
    """None without answers, and on a tie."""

    @property
    def agreement(self) -> float:
        """Share of all completions that gave the most common answer."""
        return self.votes[0][1] / len(self.answers) if self.votes and self.answers else 0.0


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """The same prompt before and after training."""

    prompt_text: str
    data_source: str
    reference: str | None
    """From the audit; None where there is none."""
    before: SampleGroup | None
    after: SampleGroup | None


class RunView:
    """A run directory, read lazily; what is missing is empty."""

    def __init__(self, run_dir: str | Path) -> None:
        """Raises DataError when it is not a run directory."""
        self.path = Path(run_dir).absolute()
        self.config: RunConfig = read_config(self.path)

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json, or empty where it is not readable."""
        try:
            return dict(json.loads((self.path / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    @cached_property
    def metrics(self) -> pa.Table:
        return read_metrics(self.path)

    def series(self, name: str) -> tuple[list[int], list[float | None]]:
        """(steps, values) of a metric where it was measured."""
        if name not in self.metrics.column_names:
            return [], []
        pairs = zip(self.metrics["step"].to_pylist(), self.metrics[name].to_pylist(), strict=True)
        measured = [(step, value) for step, value in pairs if value is not None]
        return [step for step, _ in measured], [value for _, value in measured]

    def ends(self, name: str, width: int = 1) -> tuple[float, float] | None:
        """Means of the first and the last `width` measured values; None when nothing was measured."""
        _, values = self.series(name)
        measured = [value for value in values if value is not None]
        if not measured:
            return None
        width = max(1, min(width, len(measured) // 2))
        return sum(measured[:width]) / width, sum(measured[-width:]) / width

    @cached_property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """Scored evaluations in step order, as the audit wrote them."""
        rows = current_rows(read_rows(self.path / "audit" / "eval.jsonl"))
        return [group[-1] for group in rows.values() if "macro" in group[-1]]

    @cached_property
    def audited_prompts(self) -> dict[int, dict[str, Mapping[str, Any]]]:
        """Evaluation prompts by step, then by prompt id."""
        return prompt_rows(self.path, Role.EVAL)

    def transitions(self, before: int | None = None, after: int | None = None) -> Transitions | None:
        """How the evaluation's prompts fared between two evaluations, by default the first and the last.

        Raises:
            DataError: a point was named at which no evaluation was scored.
        """
        if before is None and after is None and len(self.audited_prompts) < 2:
            return None
        return transitions(self.path, before, after)

    def threshold_curves(self, role: Role) -> list[Mapping[str, Any]]:
        """Rows of `audit/thresholds.jsonl` with a curve, in step order."""
        rows = [row for row in read_rows(self.path / "audit" / THRESHOLDS_FILE) if row.get("role") == role.value]
        return [group[-1] for group in current_rows(rows).values() if "threshold" in group[-1]]

    @cached_property
    def steps_done(self) -> int:
        """Training steps that were closed."""
        return max(closed_files(self.path, Role.TRAIN), default=-1) + 1

    @cached_property
    def histories(self) -> Mapping[str, Sequence[tuple[int, bool, str | None]]]:
        """(step, is the majority answer right, the answer) of every evaluation prompt, by prompt id."""
        return histories(self.audited_prompts)

    def changed_prompts(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Evaluation prompts whose majority answer went wrong after it had been right, and the other way.

        Returns:
            (lost: right at first and wrong in the end, or wrong in between; gained: wrong at first, right in the
            end), each row with the audit's columns and `history`: [(step, is_correct, answer)].
        """
        newest: dict[str, Mapping[str, Any]] = {}
        for rows in self.audited_prompts.values():
            newest |= rows
        lost, gained = [], []
        for prompt_id, history in self.histories.items():
            flags = [is_correct for _, is_correct, _ in history]
            row = dict(newest[prompt_id]) | {"history": history}
            if any(was and not now for was, now in zip(flags, flags[1:], strict=False)):
                lost.append(row)
            elif flags[-1] and not flags[0]:
                gained.append(row)
        return lost, gained

    @cached_property
    def prompt_texts(self) -> dict[str, str]:
        """Text of every evaluation prompt."""
        files = closed_files(self.path, Role.EVAL)
        if not files:
            return {}
        table = pq.ParquetFile(files[max(files)].path).read(columns=["prompt_id", "prompt_text"])
        return dict(zip(*(table[name].to_pylist() for name in ("prompt_id", "prompt_text")), strict=True))

    def samples(self, count: int) -> list[SamplePrompt]:
        """The same prompts before and after, from the largest gain to the largest loss.

        The first and the last evaluation are compared, or without evaluation the first and the last step. The gain
        is in the share of right completions where there are references, else in agreement.
        """
        files = closed_files(self.path, Role.EVAL)
        files = files if len(files) > 1 else closed_files(self.path, Role.TRAIN) or files
        if not files or count == 0:
            return []
        first, last = files[min(files)], files[max(files)]
        before = _read_samples(first)
        after = _read_samples(last) if last != first else {}
        common = [prompt_id for prompt_id in before if prompt_id in after]
        if not common:
            chosen = [*list(before)[:count], *list(after)[:count]]
        else:
            common.sort(key=lambda prompt_id: (-self._gain(prompt_id, before, after, first, last), prompt_id))
            chosen = [common[index] for index in _spread(len(common), count)]
        return [self._sample(prompt_id, before, after) for prompt_id in chosen]

    def _gain(self, prompt_id: str, before: _Samples, after: _Samples, first: GroupFile, last: GroupFile) -> float:
        old, new = (self.audited_prompts.get(file.step, {}).get(prompt_id) for file in (first, last))
        if first.role is Role.EVAL and old and new:
            return float(new["average_accuracy"] - old["average_accuracy"])
        return after[prompt_id][1].agreement - before[prompt_id][1].agreement

    def _sample(self, prompt_id: str, before: _Samples, after: _Samples) -> SamplePrompt:
        row = (after.get(prompt_id) or before[prompt_id])[0]
        audited = next((rows[prompt_id] for rows in self.audited_prompts.values() if prompt_id in rows), None)
        return SamplePrompt(
            prompt_text=row["prompt_text"],
            data_source=row["data_source"],
            reference=audited["reference"] if audited else None,
            before=before[prompt_id][1] if prompt_id in before else None,
            after=after[prompt_id][1] if prompt_id in after else None,
        )


_Samples = Mapping[str, tuple[Mapping[str, Any], SampleGroup]]


def _spread(length: int, count: int) -> Iterable[int]:
    if count >= length:
        return range(length)
    return [round(index * (length - 1) / max(count - 1, 1)) for index in range(count)]


def _read_samples(file: GroupFile) -> dict[str, tuple[Mapping[str, Any], SampleGroup]]:
    rows: Sequence[Mapping[str, Any]] = pq.ParquetFile(file.path).read(columns=_COLUMNS).to_pylist()
    return {row["prompt_id"]: (row, _sample_group(file.step, row)) for row in rows if row["answers"] is not None}


def _sample_group(step: int, row: Mapping[str, Any]) -> SampleGroup:
    votes = sorted(zip(row["representatives"], row["sizes"], strict=True), key=lambda vote: (-vote[1], vote[0]))
    is_decided = bool(votes) and (len(votes) == 1 or votes[0][1] > votes[1][1])
    return SampleGroup(
        step=step,
        texts=tuple(completion["text"] for completion in row["completions"]),
        answers=tuple(row["answers"]),
        votes=tuple(votes),
        majority=votes[0][0] if is_decided else None,
    )
