"""Runs stages one after another, each in a process of its own, and writes down every one that ended."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.children import TAIL_CHARACTERS, Ended, run_child
from benchmarks.gpu_check.results import ROOT, Place, ResultFile
from benchmarks.gpu_check.stages import Stage

EXIT_MET, EXIT_MISSED, EXIT_UNFINISHED = 0, 5, 75
_RESULT = "RESULT "
_SAID_ELSEWHERE = ("bench", "machine", "versions", "schema")
"""Of a RESULT line; the entry's name and place say it."""
_NOT_SHOWN = ("seed", "repeats")


@dataclass(frozen=True, slots=True)
class Settings:
    """How stages are run."""

    logs: Path
    keeps_failures: bool = False
    any_code: bool = False
    again: bool = False
    """Run what is in the file too."""
    budget_seconds: float | None = None
    """For all stages of this call; None: no limit."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def run_stages(stages: Sequence[Stage], place: Place, file: ResultFile, settings: Settings) -> int:
    """Run what is not in the file yet, and print a table of all.

    Returns:
        EXIT_MET; EXIT_MISSED when a stage failed or missed a bound; EXIT_UNFINISHED when time ran out before. A stage
        that the call's end cut short of its own limit is not written down.
    """
    began, unfinished = time.monotonic(), []
    for stage in stages:
        held = file.held(stage.name, place, keeps_failures=settings.keeps_failures, any_code=settings.any_code)
        if held and not settings.again:
            print(f"{stage.name}: in {file.path} already", flush=True)
            continue
        obstacle = stage.obstacle(place.device, place.gpu_gib)
        if obstacle:
            if not file.stages.get(stage.name, {}).get("figures"):  # measured elsewhere
                file.record(stage.name, _entry(stage, place, "skipped", why=obstacle))
            continue
        left = None if settings.budget_seconds is None else settings.budget_seconds - (time.monotonic() - began)
        if left is not None and left < stage.usual_seconds:
            unfinished.append(stage.name)
            continue
        limit = stage.limit_seconds if left is None else min(left, stage.limit_seconds)
        print(f"{stage.name}: {stage.about} (at most {limit:.0f} s)", flush=True)
        entry = _run(stage, place, limit, settings)
        if entry["exit_code"] is None and limit < stage.limit_seconds:  # cut by the budget: says nothing of the stage
            unfinished.append(stage.name)
        else:
            file.record(stage.name, entry)
    entries = {stage.name: file.stages[stage.name] for stage in stages if stage.name in file.stages}
    print("\n".join(table(entries)), flush=True)
    if unfinished:
        print(f"not ended for lack of time: {', '.join(unfinished)}; run the same command again", flush=True)
        return EXIT_UNFINISHED
    bad = [name for name, entry in entries.items() if entry["outcome"] not in ("passed", "skipped")]
    return EXIT_MISSED if bad else EXIT_MET


def _run(stage: Stage, place: Place, limit: float, settings: Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as scratch:
        path = os.pathsep.join(filter(None, (str(ROOT), settings.environment.get("PYTHONPATH", ""))))
        mine = {"TMPDIR": scratch, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        command = stage.command(place.device, place.is_tiny)
        log = settings.logs / f"{stage.name}.log"
        ended = run_child(command, log, limit, {**settings.environment, **mine})
    figures = last_figures(ended.output)
    are_checked = place.device == "cuda" and not place.is_tiny
    bounds = [(bound, bound.is_met(figures)) for bound in stage.bounds if are_checked]
    outcome = _outcome(ended, figures, all(met for _, met in bounds))
    entry = _entry(stage, place, outcome)
    entry |= {"seconds": round(ended.seconds, 1), "exit_code": ended.code, "figures": figures}
    entry["bounds"] = [{"bound": str(bound), "met": met} for bound, met in bounds]
    if outcome in ("failed", "timed out"):
        entry["output_tail"] = ended.output[-TAIL_CHARACTERS:]
    print(f"{stage.name}: {outcome} after {ended.seconds:.0f} s", flush=True)
    return entry


def _outcome(ended: Ended, figures: Mapping[str, Any], are_met: bool) -> str:
    if ended.code is None:
        return "timed out"
    if ended.code or not figures:
        return "failed"
    return "passed" if are_met else "missed"


def _entry(stage: Stage, place: Place, outcome: str, why: str = "") -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"outcome": outcome, "about": stage.about, "ended_at": now, "place": place.plain()}
    return entry | ({"why": why} if why else {})


def last_figures(output: str) -> dict[str, Any]:
    """Figures of the last RESULT line; none where there is no such line, or it was cut."""
    lines = [line for line in output.splitlines() if line.startswith(_RESULT)]
    try:
        found = json.loads(lines[-1][len(_RESULT) :]) if lines else {}
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if name not in _SAID_ELSEWHERE}


def table(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines for people: outcome, seconds and what was to be reached, of every stage."""
    for name, entry in entries.items():
        said = [f"{bound['bound']}: {_value(entry, bound['bound'])}" for bound in entry.get("bounds", ())]
        said = (
            said or [f"{key} {value}" for key, value in entry.get("figures", {}).items() if key not in _NOT_SHOWN][:3]
        )
        yield f"{name:18} {entry['outcome']:10} {entry.get('seconds', 0):6.0f} s  {entry.get('why') or '; '.join(said)}"


def _value(entry: Mapping[str, Any], bound: str) -> str:
    value = entry["figures"].get(bound.split()[0])
    return f"{value:.3f}" if isinstance(value, float) else str(value)
