"""`quorum bench startup`: a cold start of `quorum train`, from the command to the first update, phase by phase.

Every repeat is a process of its own that nothing was started for: Ray, two samplers with vLLM, two learner ranks with a
reference model, the voting service. `startup_over_slowest` is the time until everything is READY (all actors up, every
sampler holding the first weights; the command's own imports and checks included) over what no order of things could
save: Ray's start plus the slowest part that comes up beside the others. Both are of the same start, for parts
that share cores slow each other down. Files may be in the page cache: cold are the processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import make_untrained_model, write_prompts
from benchmarks.results import BenchResult, Median
from orchestration.start_times import ACTORS, RAY, WEIGHTS, read_start
from quorum.errors import StageError

RUN_SECONDS = 600.0
SETTINGS = (
    "run.num_steps=1",
    "rollout.num_samplers=2",
    "rollout.prompts_per_step=8",
    "rollout.completions_per_prompt=4",
    "rollout.max_completion_tokens=32",
    "learner.num_ranks=2",
    "learner.kl.coefficient=0.01",
)
"""Beside the preset `bench`: one short step, and a KL, so that the ranks load a reference too."""
NUM_PROMPTS = 16


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start; see `orchestration.start_times`."""

    seconds: float
    """To the first update."""
    ready_seconds: float
    phases: Mapping[str, float]
    parts: Mapping[str, float]
    steps: Mapping[str, Mapping[str, float]]

    @property
    def over_slowest(self) -> float:
        """Time until everything is READY over Ray's start plus the slowest part."""
        return self.ready_seconds / (self.phases[RAY] + max(self.parts.values()))


def run_startup(repeats: int, seed: int, keep: Path | None) -> BenchResult:
    """Measure. `keep` holds model, prompts and run directories afterwards."""
    starts = []
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        root = keep or Path(scratch)
        model = make_untrained_model(root / "model", hidden=256, layers=4, seed=seed)
        prompts = write_prompts(root / "prompts.jsonl", num_prompts=NUM_PROMPTS, seed=seed)
        for repeat in range(repeats):
            start = cold_start(root / f"run-{repeat}", model, prompts, [f"run.seed={seed}"])
            starts.append(start)
            print(
                f"repeat {repeat + 1}: ready after {start.ready_seconds:.1f} s, first update after "
                f"{start.seconds:.1f} s, ready over slowest part + Ray {start.over_slowest:.2f}",
                flush=True,
            )
    for line in table(starts):
        print(line)
    return BenchResult("startup", figures(starts), seed=seed, repeats=repeats)


def cold_start(run: Path, model: Path, prompts: Path, overrides: Sequence[str] = ()) -> Start:
    """Run `quorum train` for one step in a process of its own.

    Raises:
        StageError: it failed or did not end; says its last lines.
    """
    paths = (f"run.dir={run}", f"model.path={model}", f"data.train.0.path={prompts}")
    command = [sys.executable, "-m", "orchestration", "train", "bench", *SETTINGS, *paths, *overrides]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired as exc:
        raise StageError(f"`quorum train` took no step within {RUN_SECONDS:.0f} s") from exc
    if done.returncode:
        words = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise StageError(f"`quorum train` ended with code {done.returncode}: {words}")
    return Start(**read_start(run))


def figures(starts: Sequence[Start]) -> dict[str, object]:
    """Medians over the repeats; seconds of every phase, part and step of a part by its name."""
    values: dict[str, object] = {
        "startup_over_slowest": Median([start.over_slowest for start in starts]),
        "ready_seconds": Median([start.ready_seconds for start in starts]),
        "to_first_update_seconds": Median([start.seconds for start in starts]),
    }
    for name, _, seconds in rows(starts):
        values[f"{name.replace(' ', '_').replace('/', '_')}_seconds"] = seconds
    return values


def rows(starts: Sequence[Start]) -> list[tuple[str, int, float]]:
    """(name, depth, median seconds) of every phase, the parts of `actors` below it, and their steps below them."""
    found = []
    for phase in _names([start.phases for start in starts]):
        found.append((phase, 0, _median([start.phases for start in starts], phase)))
        if phase != ACTORS:
            continue
        for part in sorted(_names([start.parts for start in starts])):
            found.append((part, 1, _median([start.parts for start in starts], part)))
            steps = [start.steps.get(part, {}) for start in starts]
            found += [(f"{part}/{step}", 2, _median(steps, step)) for step in _names(steps)]
    return found


def _names(repeats: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of all repeats. One that only later repeats have stands behind the one that it followed there."""
    names: list[str] = []
    for repeat in repeats:
        at = 0
        for name in repeat:
            if name not in names:
                names.insert(at, name)
            at = names.index(name) + 1
    return names


def _median(repeats: Sequence[Mapping[str, float]], name: str) -> Median:
    """Of a name's seconds; a repeat without it took none."""
    return Median(repeat.get(name, 0.0) for repeat in repeats)


def table(starts: Sequence[Start]) -> list[str]:
    """Where the seconds went, as lines. Phases follow one another; what is below `actors` runs side by side."""
    lines = ["  seconds  share  phase"]
    total = Median([start.seconds for start in starts])
    for name, depth, seconds in rows(starts):
        label = name.rpartition("/")[2]
        note = "   <- everything is READY" if name == WEIGHTS else ""
        lines.append(f"{seconds:9.2f}  {seconds / total:5.0%}  {'    ' * depth}{label}{note}")
    return [*lines, f"{total:9.2f}   100%  to the first update"]
