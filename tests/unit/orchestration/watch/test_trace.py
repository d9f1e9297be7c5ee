"""A step's timeline: valid trace events that nest, and whose durations sum up."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from orchestration.watch.trace import GroupSpan, Span, StepSpan, Tracer, step_trace

STEP = StepSpan(
    step=3,
    began=100.0,
    ended=110.0,
    phases=[
        Span("rollout", 100.1, 104.0),
        Span("vote", 104.0, 105.0),
        Span("learn", 105.25, 108.0),
        Span("sync", 108.0, 109.5),
    ],
    samplers=["a", "b", "idle"],
)
GROUPS = [
    GroupSpan("a", 1, "train", 10, 99.0, 102.0),
    GroupSpan("a", 2, "train", 10, 100.5, 103.0),
    GroupSpan("a", 3, "teacher", 10, 102.0, 102.5),
    GroupSpan("b", 4, "train", 10, 100.2, 104.0),
    GroupSpan("b", 5, "train", 10, 90.0, 99.0),
]


def by_track(trace: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    process, thread = {}, {}
    for event in trace["traceEvents"]:
        if event["name"] == "process_name":
            process[event["pid"]] = event["args"]["name"]
        if event["name"] == "thread_name":
            thread[event["pid"], event["tid"]] = event["args"]["name"]
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            tracks[process[event["pid"]], thread[event["pid"], event["tid"]]].append(event)
    return tracks


def total(events: list[dict[str, Any]]) -> int:
    return sum(event["dur"] for event in events)


def test_events_are_valid_and_nested_or_apart_on_every_track() -> None:
    trace = json.loads(json.dumps(step_trace(STEP, GROUPS, 90.0)))
    for events in by_track(trace).values():
        spans = sorted(((e["ts"], e["ts"] + e["dur"]) for e in events), key=lambda s: (s[0], -s[1]))
        open_ends: list[int] = []
        for began, ended in spans:
            assert isinstance(began, int) and ended > began
            while open_ends and open_ends[-1] <= began:
                open_ends.pop()
            assert not open_ends or ended <= open_ends[-1], "overlaps without being nested"
            open_ends.append(ended)


def test_driver_and_learner_and_each_samplers_time_sum_to_the_step() -> None:
    tracks = by_track(step_trace(STEP, GROUPS, 90.0))
    driver = tracks["driver and learner", "driver"]
    assert [e["name"] for e in driver] == ["step 3", "wait", "rollout", "vote", "wait", "learn", "sync", "wait"]
    assert driver[0]["dur"] == total(driver[1:]) == 10_000_000
    assert total(tracks["driver and learner", "learner"]) == 10_000_000
    waits = {name: total(tracks[f"sampler {name}", "waits"]) for name in ("a", "b", "idle")}
    assert waits == {"a": 7_000_000, "b": 6_200_000, "idle": 10_000_000}


def test_who_waits_for_whom_goes_by_what_the_driver_did() -> None:
    tracks = by_track(step_trace(STEP, GROUPS, 90.0))
    assert [(e["name"], e["dur"]) for e in tracks["sampler a", "waits"]] == [
        ("waits for other samplers", 1_000_000),
        ("waits for the vote", 1_000_000),
        ("waits for the driver", 250_000),
        ("waits for the learner", 2_750_000),
        ("gets weights", 1_500_000),
        ("waits for the driver", 500_000),
    ]
    lanes = [e["name"] for e in tracks["sampler a", "groups 1"]], [e["name"] for e in tracks["sampler a", "groups 2"]]
    assert lanes == (["group 1", "teacher group 3"], ["group 2"])
    assert [e["name"] for e in tracks["sampler b", "groups 1"]] == ["group 4"], "what ended before is not shown"


def test_a_timeline_waits_one_step_for_groups_that_run_on(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, every=1, origin=0.0)
    tracer.end_step("step-0", StepSpan(0, 0.0, 10.0, []), num_running=1)
    assert not (tmp_path / "trace").exists()
    tracer.note_group(GroupSpan("a", 1, "train", 5, 8.0, 12.0))
    tracer.end_step("step-1", StepSpan(1, 10.0, 20.0, []), num_running=0)
    for name in ("step-0", "step-1"):
        tracks = by_track(json.loads((tmp_path / "trace" / f"{name}.json").read_text()))
        assert total(tracks["sampler a", "groups 1"]) == 4_000_000
        assert total(tracks["sampler a", "waits"]) == 8_000_000


def test_only_every_nth_step_is_written_and_none_by_default(tmp_path: Path) -> None:
    tracer, never = Tracer(tmp_path, every=2, origin=0.0), Tracer(tmp_path / "off", every=0, origin=0.0)
    for step in range(4):
        span = StepSpan(step, float(step), step + 1.0, [])
        tracer.end_step(f"step-{step}", span, 0)
        never.end_step(f"step-{step}", span, 0)
    assert sorted(path.name for path in (tmp_path / "trace").iterdir()) == ["step-0.json", "step-2.json"]
    assert not (tmp_path / "off").exists()
