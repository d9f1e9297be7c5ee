"""`quorum bench pipeline --schedule`: strict against overlapped, where generation and learning take known times.

On two cores both would share the same cores and overlapping could gain nothing, so the engine and the learner are
simulated: a step's groups take G seconds on the samplers, an update L seconds, a swap of weights S. Driver, pool,
voters, durable log and weight sync are real. Strict steps should take G + L + S, overlapped ones max(G, L) + S.
The real stack's own figures on this machine stand beside.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import make_random_model, write_prompts
from benchmarks.results import BenchResult
from benchmarks.simulated_learner import SimulatedLearner
from benchmarks.simulated_run import simulated_run
from orchestration.preflight import preflight
from orchestration.registries import load_run_config
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.training import open_loop
from orchestration.watch.display import Display

PROMPTS, K, SAMPLERS = 16, 4, 2
SYNC_SECONDS = 0.1
WARM_UP = 2
"""Steps until the overlap is under way."""
OVERLAP = ("rollout.max_off_policy_steps=1", "learner.importance.mode=truncate")


@dataclass(frozen=True, slots=True)
class Times:
    """What a simulated step consists of, seconds."""

    generate: float
    learn: float
    sync: float = SYNC_SECONDS

    @property
    def strict(self) -> float:
        return self.generate + self.learn + self.sync

    @property
    def overlapped(self) -> float:
        return max(self.generate, self.learn) + self.sync


CASES = {"rollout_bound": Times(2.0, 1.6), "learner_bound": Times(1.6, 2.0)}


def run_schedule(repeats: int, seed: int, keep: Path | None) -> BenchResult:
    """Measure.

    Args:
        repeats: measured steps of each kind.
        seed: of prompts and tokens.
        keep: holds the run directories afterwards; None deletes them.
    """
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        root = keep or Path(scratch)
        model = make_random_model(root / "model")
        prompts = write_prompts(root / "prompts.jsonl", num_prompts=4 * PROMPTS * (repeats + WARM_UP), seed=seed)
        for name, times in CASES.items():
            strict = _steps(root / f"{name}-strict", model, prompts, times, repeats)
            ahead = _steps(root / f"{name}-overlapped", model, prompts, times, repeats, *OVERLAP)
            figures |= case_figures(name, times, strict, ahead)
            print(_line(name, figures), flush=True)
        figures["overlap_over_max"] = max(float(str(figures[f"{name}_overlap_over_max"])) for name in CASES)
        figures["strict_over_sum"] = max(float(str(figures[f"{name}_strict_over_sum"])) for name in CASES)
        for name, words in {"strict": (), "overlapped": OVERLAP}.items():
            figures[f"cpu_{name}_step_seconds"] = _real_step(root / f"cpu-{name}", model, prompts, *words)
    return BenchResult("pipeline-schedule", figures, seed=seed, repeats=repeats)


def case_figures(name: str, times: Times, strict: list[float], ahead: list[float]) -> dict[str, object]:
    """Mean of a case's steps over what they should take: with two steps' groups in the samplers at once, one step may
    find its groups early and the next one late."""
    ours, theirs = statistics.mean(ahead), statistics.mean(strict)
    return {
        f"{name}_step_seconds": ours,
        f"{name}_strict_step_seconds": theirs,
        f"{name}_overlap_over_max": ours / times.overlapped,
        f"{name}_strict_over_sum": theirs / times.strict,
    }


def _steps(run: Path, model: Path, prompts: Path, times: Times, repeats: int, *words: str) -> list[float]:
    """Seconds of `repeats` steps after the warm-up. All of a step's completions run at once."""
    words = (
        f"rollout.num_samplers={SAMPLERS}",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.completions_per_prompt={K}",
        f"rollout.engine.options.seconds_per_group={times.generate}",
        f"rollout.engine.options.sync_seconds={times.sync}",
        f"rollout.engine.options.max_running={PROMPTS * K // SAMPLERS}",
        *words,
    )
    with simulated_run(run, model, prompts, SimulatedLearner(times.learn), *words) as loop:
        measured = [loop.step()["time/step_seconds"] for _ in range(repeats + WARM_UP)]
    return measured[WARM_UP:]


def _real_step(run: Path, model: Path, prompts: Path, *words: str) -> float:
    """Median step of the real stack on this machine, second to fourth."""
    overrides = (f"run.dir={run}", f"model.path={model}", f"data.train.0.path={prompts}", "run.num_steps=5", *words)
    config = load_run_config("bench", list(overrides))
    checked, run_dir = preflight(config, new_run=True), RunDir.create(config)
    with StopSignals() as signals, Display(config, run_dir.path, live=False) as display:
        with open_loop(config, run_dir, checked, display, signals) as loop:
            loop.publish_start()
            seconds = [loop.step()["time/step_seconds"] for _ in range(4)]
    run_dir.close()
    return statistics.median(seconds[1:])


def _line(name: str, figures: Mapping[str, object]) -> str:
    return f"{name}: " + ", ".join(
        f"{key.removeprefix(name + '_')} {value:.3f}" for key, value in figures.items() if key.startswith(name)
    )
