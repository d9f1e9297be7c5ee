"""A step's timeline as Chrome trace events, which Perfetto opens: who worked when, and who waited for whom.

Times are the driver's clock: a group's end is when the driver learned of it, its start is the sampler's own seconds
before that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.run_dir import write_atomic
from orchestration.storage import storage_errors
from quorum.types import GroupKey, Receipt

DIRECTORY = "trace"
SAMPLER_WAITS = {
    "rollout": "waits for other samplers",
    "vote": "waits for the vote",
    "learn": "waits for the learner",
    "sync": "gets weights",
    "wait": "waits for the driver",
}
"""What a sampler without a group does, by the driver's phase."""
LEARNER_DOES = {
    "rollout": "waits for samplers",
    "vote": "waits for the vote",
    "learn": "learn",
    "sync": "sends weights",
    "wait": "waits for the driver",
}
DRIVER, FIRST_SAMPLER = 1, 10
"""Process ids of the tracks; samplers count up from theirs."""
PHASES, LEARNER, WAITS = 1, 2, 1
"""Thread ids: two of the driver's process, and the waits of a sampler's, whose groups come below."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took its time, in seconds of the driver's monotonic clock."""

    name: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class GroupSpan:
    """A group on its sampler."""

    sampler_id: str
    group_id: int
    role: str
    num_tokens: int
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class StepSpan:
    """What a timeline is made of."""

    step: int
    began: float
    ended: float
    phases: Sequence[Span]
    """Of the driver, in order of time, without overlap, inside the step; what is between them is `wait`."""
    samplers: Sequence[str] = ()
    """Those that were there, with or without a group."""


@dataclass
class Tracer:
    """Writes the timeline of every Nth step, once all groups that ran in it are back."""

    run_path: Path
    every: int
    """0: never."""
    origin: float = field(default_factory=time.monotonic)
    """Where the time starts, in seconds of the monotonic clock."""
    _groups: list[GroupSpan] = field(default_factory=list)
    _pending: list[tuple[Path, StepSpan]] = field(default_factory=list)

    def note_receipt(self, key: GroupKey, receipt: Receipt) -> None:
        """A group came back just now."""
        now = time.monotonic()
        began = now - receipt.seconds
        self.note_group(GroupSpan(receipt.sampler_id, key.group_id, key.role.value, receipt.num_tokens, began, now))

    def note_group(self, group: GroupSpan) -> None:
        """A group came back."""
        if self.every:
            self._groups.append(group)

    def is_due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def end_step(self, name: str, span: StepSpan, num_running: int) -> None:
        """A step is over.

        Args:
            name: of the step's file, without its ending.
            span: what is known of it.
            num_running: groups that run on; a timeline waits one step more for them.

        Raises:
            StorageError: the file cannot be written.
        """
        if not self.every:
            return
        ready = list(self._pending)
        self._pending = [(self.run_path / DIRECTORY / f"{name}.json", span)] if self.is_due(span.step) else []
        if not num_running:
            ready, self._pending = ready + self._pending, []
        for path, done in ready:
            with storage_errors(path):
                path.parent.mkdir(exist_ok=True)
            write_atomic(path, json.dumps(step_trace(done, self._groups, self.origin)))
        kept_from = min((pending.began for _, pending in self._pending), default=span.ended)
        self._groups = [group for group in self._groups if group.ended > kept_from]


def step_trace(step: StepSpan, groups: Iterable[GroupSpan], origin: float) -> dict[str, Any]:
    """The timeline of one step, as an object of the Chrome trace event format.

    Args:
        step: driver phases, samplers.
        groups: of any steps; those that ran in this one are shown, whole.
        origin: where the time starts, in seconds.

    Returns:
        `traceEvents` with times in microseconds. On every track events are nested or apart. The events of the driver's
        phases sum to the step, so do the learner's, and each sampler's waits and time with a group.
    """
    phases = whole_phases(step)
    shown = sorted((g for g in groups if g.ended > step.began and g.began < step.ended), key=lambda g: g.began)
    draw = _Drawing(origin)
    draw.name(DRIVER, "driver and learner", {PHASES: "driver", LEARNER: "learner"})
    draw.span(DRIVER, PHASES, Span(f"step {step.step}", step.began, step.ended), {"step": step.step})
    for phase in phases:
        draw.span(DRIVER, PHASES, phase)
        draw.span(DRIVER, LEARNER, Span(LEARNER_DOES[phase.name], phase.began, phase.ended))
    names = sorted({*step.samplers, *(group.sampler_id for group in shown)})
    for pid, sampler in enumerate(names, FIRST_SAMPLER):
        own = [group for group in shown if group.sampler_id == sampler]
        lanes = _lanes(own)
        threads = {WAITS + 1 + lane: f"groups {lane + 1}" for lane in set(lanes)}
        draw.name(pid, f"sampler {sampler}", {WAITS: "waits", **threads})
        for wait in waits(step, phases, own):
            draw.span(pid, WAITS, wait)
        for group, lane in zip(own, lanes, strict=True):
            about = {"group_id": group.group_id, "role": group.role, "num_tokens": group.num_tokens}
            name = f"{'' if group.role == 'train' else group.role + ' '}group {group.group_id}"
            draw.span(pid, WAITS + 1 + lane, Span(name, group.began, group.ended), about)
    return {"traceEvents": draw.events, "displayTimeUnit": "ms", "otherData": {"step": step.step}}


def whole_phases(step: StepSpan) -> list[Span]:
    """The driver's phases with `wait` in between: end to end from the step's beginning to its end."""
    found, at = [], step.began
    for phase in [*step.phases, Span("", step.ended, step.ended)]:
        if phase.began > at:
            found.append(Span("wait", at, phase.began))
        if phase.ended > phase.began:
            found.append(phase)
        at = max(at, phase.ended)
    return found


def waits(step: StepSpan, phases: Sequence[Span], groups: Sequence[GroupSpan]) -> list[Span]:
    """When a sampler had no group in the step, and for what it waited: the phase that the driver was in.

    Args:
        step: its beginning and end.
        phases: end to end, see `whole_phases`.
        groups: of the sampler, by beginning.
    """
    gaps, at = [], step.began
    for group in groups:
        if group.began > at:
            gaps.append((at, min(group.began, step.ended)))
        at = max(at, group.ended)
    if at < step.ended:
        gaps.append((at, step.ended))
    return [
        Span(SAMPLER_WAITS[phase.name], max(phase.began, began), min(phase.ended, ended))
        for began, ended in gaps
        for phase in phases
        if max(phase.began, began) < min(phase.ended, ended)
    ]


def _lanes(groups: Sequence[GroupSpan]) -> list[int]:
    """A track for each group such that groups on one do not overlap; as few tracks as there are at a time."""
    ends: list[float] = []
    lanes = []
    for group in groups:
        lane = next((lane for lane, end in enumerate(ends) if end <= group.began), len(ends))
        ends[lane : lane + 1] = [group.ended]
        lanes.append(lane)
    return lanes


@dataclass
class _Drawing:
    origin: float
    events: list[dict[str, Any]] = field(default_factory=list)

    def name(self, pid: int, process: str, threads: dict[int, str]) -> None:
        self.events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process}})
        self.events.append({"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}})
        for tid, thread in threads.items():
            self.events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}})

    def span(self, pid: int, tid: int, span: Span, about: dict[str, Any] | None = None) -> None:
        # Whole microseconds from rounded ends: neighbours touch, and what is nested stays inside.
        began, ended = (round(1e6 * (at - self.origin)) for at in (span.began, span.ended))
        event = {"name": span.name, "ph": "X", "ts": began, "dur": ended - began, "pid": pid, "tid": tid}
        self.events.append(event | ({"args": about} if about else {}))
