"""`quorum bench elastic`: samplers join and leave a live run; and what stopping decided votes saves.

A real run (vLLM, ZeRO) goes from one sampler to two and back by order to its control actor, a simulated one from four
to sixteen and back. Measured are tokens/s before, between and after, the seconds from the order to READY and from READY
to the new sampler's first token, and groups that never ended. The overlapped schedule keeps work waiting for who joins.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.models import make_random_model, write_prompts
from benchmarks.results import BenchResult
from benchmarks.simulated_learner import SimulatedLearner
from benchmarks.simulated_run import simulated_run
from orchestration.ledger import read_ledger
from orchestration.loop import TrainingLoop
from orchestration.preflight import preflight
from orchestration.registries import load_run_config
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.training import open_loop
from orchestration.watch.display import Display
from rollout.handle import SamplerHandle, SamplerState

OVERLAP = (
    "rollout.max_off_policy_steps=1",
    "learner.importance.mode=truncate",
    "rollout.dispatch.max_completions_per_sampler=256",
)
POLL_SECONDS, CALL_SECONDS, MOST_SECONDS = 0.01, 10.0, 240.0
VOTES, TRAINED, AGREEMENT = 64, 32, 0.8


@dataclass
class Joiners(threading.Thread):
    """Watches a pool for new samplers: when each became READY, and when its first token came."""

    samplers: Callable[[], list[SamplerHandle]]
    known: set[str]
    ready_at: dict[str, float] = field(default_factory=dict)
    first_token_at: dict[str, float] = field(default_factory=dict)
    is_ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Look until told to end. A sampler is only asked once it is READY."""
        import ray

        while not self.is_ended.wait(POLL_SECONDS):
            for sampler in [one for one in self.samplers() if one.sampler_id not in self.known]:
                name = sampler.sampler_id
                if sampler.state is SamplerState.READY:
                    self.ready_at.setdefault(name, time.monotonic())
                if name in self.ready_at and name not in self.first_token_at:
                    probe = ray.get(sampler.actor.probe.remote(), timeout=CALL_SECONDS)
                    if probe.tokens_generated:
                        self.first_token_at[name] = time.monotonic()


@dataclass(frozen=True, slots=True)
class Elastic:
    """One run that grew and shrank."""

    tokens_per_second: tuple[float, float, float]
    """Before, between, after."""
    seconds_to_ready: float
    """From the order to the last new sampler."""
    seconds_to_first_token: float
    """From READY, the slowest."""
    groups_lost: int


def run_elastic(repeats: int, seed: int, keep: Path | None) -> BenchResult:
    """Measure. `repeats` is the number of steps of each part that are averaged."""
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        root = keep or Path(scratch)
        model = make_random_model(root / "model")
        prompts = write_prompts(root / "prompts.jsonl", num_prompts=20_000, seed=seed)
        simulated = _simulated(root / "simulated", model, prompts, repeats)
        print(f"simulated, 4 -> 16 -> 4: {simulated}", flush=True)
        real = _real(root / "real", model, prompts, repeats)
        print(f"real, 1 -> 2 -> 1: {real}", flush=True)
        saved = _saved_by_stopping(root, model, prompts, repeats)
    figures: dict[str, object] = {
        "ready_to_first_token_seconds": max(real.seconds_to_first_token, simulated.seconds_to_first_token),
        "groups_lost": real.groups_lost + simulated.groups_lost,
        "vote_only_tokens_saved": saved,
        **named("real", real),
        **named("simulated", simulated),
    }
    return BenchResult("elastic", figures, seed=seed, repeats=repeats)


def named(name: str, measured: Elastic) -> dict[str, object]:
    """A run's figures under its name."""
    before, between, after = measured.tokens_per_second
    return {
        f"{name}_tokens_per_second_before": before,
        f"{name}_tokens_per_second_between": between,
        f"{name}_tokens_per_second_after": after,
        f"{name}_command_to_ready_seconds": measured.seconds_to_ready,
        f"{name}_ready_to_first_token_seconds": measured.seconds_to_first_token,
        f"{name}_groups_lost": measured.groups_lost,
    }


def _simulated(run: Path, model: Path, prompts: Path, steps: int) -> Elastic:
    """128 groups of 4 a step; a sampler draws 16 completions at a time, half a second each; the learner is quick."""
    words = (
        "rollout.num_samplers=4",
        "rollout.prompts_per_step=128",
        "rollout.completions_per_prompt=4",
        "rollout.engine.options.seconds_per_group=0.5",
        "rollout.engine.options.max_running=16",
        *OVERLAP[:2],
        "rollout.dispatch.max_completions_per_sampler=32",
    )
    with simulated_run(run, model, prompts, SimulatedLearner(0.1), *words) as loop:
        return grow_and_shrink(loop, (4, 16), steps)


def _real(run: Path, model: Path, prompts: Path, steps: int) -> Elastic:
    overrides = (f"run.dir={run}", f"model.path={model}", f"data.train.0.path={prompts}", "rollout.num_samplers=1")
    config = load_run_config("bench", [*overrides, "rollout.completions_per_prompt=8", *OVERLAP])
    checked, run_dir = preflight(config, new_run=True), RunDir.create(config)
    with StopSignals() as signals, Display(config, run_dir.path, live=False) as display:
        with open_loop(config, run_dir, checked, display, signals) as loop:
            loop.publish_start()
            measured = grow_and_shrink(loop, (1, 2), steps)
    run_dir.close()
    return measured


def grow_and_shrink(loop: TrainingLoop, counts: tuple[int, int], steps: int) -> Elastic:
    """Steps with fewer samplers, then with more, then with fewer again."""
    import ray

    few, many = counts
    pool, scaling = loop.stack.pool, loop.scaling
    assert pool is not None and scaling is not None
    loop.step()
    rates = [_rate(loop, steps)]
    watch = Joiners(lambda: list(pool.samplers), {sampler.sampler_id for sampler in pool.samplers})
    watch.start()
    ordered = time.monotonic()
    ray.get(scaling.desk.actor.scale.remote(many), timeout=CALL_SECONDS)
    _step_until(loop, lambda: len(watch.first_token_at) == many - few)
    rates.append(_rate(loop, steps))
    ray.get(scaling.desk.actor.scale.remote(few), timeout=CALL_SECONDS)
    _step_until(loop, lambda: len(pool.samplers) == few)
    rates.append(_rate(loop, steps))
    watch.is_ended.set()
    watch.join(timeout=CALL_SECONDS)
    return Elastic(
        tokens_per_second=(rates[0], rates[1], rates[2]),
        seconds_to_ready=max(watch.ready_at.values()) - ordered,
        seconds_to_first_token=max(watch.first_token_at[name] - watch.ready_at[name] for name in watch.ready_at),
        groups_lost=lost_groups([row.group_id for row in read_ledger(loop.run_dir.path)]),
    )


def lost_groups(ended: list[int]) -> int:
    """Ids below the highest that never ended, and ends beyond one of each id."""
    return max(ended) + 1 - len(set(ended)) + len(ended) - len(set(ended))


def _rate(loop: TrainingLoop, steps: int) -> float:
    """Completion tokens per second over some steps."""
    rows = [loop.step() for _ in range(steps)]
    tokens = sum(row["rollout/tokens_per_second"] * row["time/step_seconds"] for row in rows)
    return tokens / sum(row["time/step_seconds"] for row in rows)


def _step_until(loop: TrainingLoop, condition: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > MOST_SECONDS:
            raise TimeoutError(f"the samplers did not change within {MOST_SECONDS:g} s: {loop.stack.pool}")
        loop.step()


def _saved_by_stopping(root: Path, model: Path, prompts: Path, steps: int) -> float:
    """Share of the vote-only tokens that are not drawn, at 64 votes, 32 of them trained on, and agreement 0.8."""
    words = (
        "rollout.num_samplers=2",
        "rollout.prompts_per_step=8",
        f"rollout.completions_per_prompt={VOTES}",
        f"voting.train.num_completions={TRAINED}",
        "rollout.engine.options.answers=['\\\\boxed{1}','\\\\boxed{2}','\\\\boxed{3}']",
        f"rollout.engine.options.weights=[{AGREEMENT},{(1 - AGREEMENT) / 2},{(1 - AGREEMENT) / 2}]",
        "rollout.engine.options.max_thinking_tokens=150",
        "rollout.engine.options.seconds_per_token=0.01",
    )
    drawn = {}
    for stops in (False, True):
        run = root / f"stops-{stops}".lower()
        with simulated_run(
            run, model, prompts, SimulatedLearner(0.1), *words, f"rollout.stop_decided={stops}".lower()
        ) as loop:
            for _ in range(steps):
                loop.step()
            loop._settle_log()
        drawn[stops] = vote_only_tokens(run)
    return 1 - drawn[True] / drawn[False]


def vote_only_tokens(run: Path) -> float:
    """Mean tokens per group of the completions that are not trained on."""
    from orchestration.group_table import read_groups

    rows: list[Mapping[str, Any]] = read_groups(run).select(["completions", "train_mask"]).to_pylist()
    return statistics.mean(
        sum(
            len(completion["token_ids"])
            for completion, trained in zip(row["completions"], row["train_mask"], strict=True)
            if not trained
        )
        for row in rows
    )
