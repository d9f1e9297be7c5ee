"""`quorum bench pipeline --against trl`: whole steps of a run beside those of TRL's GRPOTrainer, taken in turns.

Both sides have the same model, prompts in the same order, k, lengths, temperature, reward (agreement with the majority
of the last numbers), float32 weights under AdamW and all cores that this process may use: TRL's one process has a
thread on each of them; our two samplers, and then our two ranks, have them by halves. Each side draws its own
completions, whose mean lengths are compared, so that both do the same work. TRL takes the fastest of a few of its
settings, tried before anything is measured: micro-batches, and generation by `generate` or by transformers' continuous
batching. Its colocated vLLM updates weights in a way that vLLM's CPU build does not have, so on a CPU it generates with
transformers; on a GPU it is given vLLM, colocated, and our side shares the GPU too (this branch has not been run).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from benchmarks.models import make_random_model, write_prompts
from benchmarks.results import BenchResult, Median
from benchmarks.trl_side import TrlWork
from orchestration.loop import TrainingLoop
from orchestration.preflight import preflight
from orchestration.processor import fast_dtype
from orchestration.registries import load_run_config
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.training import open_loop
from orchestration.watch.display import Display
from quorum.errors import ConfigError, StageError

START_SECONDS, STEP_SECONDS = 900.0, 300.0
WARM_UP = 1
SETTLE_SECONDS = 0.5
"""After a step of ours: its file is still being written, and must not weigh on the other side."""
SAME_LENGTH = 0.1
"""Largest relative difference of the two sides' mean lengths, beyond what chance explains."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and what is drawn with it in every step."""

    hidden: int
    layers: int
    prompts: int
    k: int
    max_tokens: int
    rows: tuple[int, ...]
    """TRL's micro-batches to try."""
    overrides: tuple[str, ...] = ()
    """Of our side's preset."""


WORKLOADS = {
    "spread": Workload(256, 4, 32, 16, 192, (16, 64)),
    "short": Workload(128, 3, 64, 16, 4, (256, 1024), ("learner.max_tokens_per_micro_batch=8192",)),
}
"""spread: 3.2 M parameters, completions of 77 tokens in the mean. short: 0.6 M, where a step is shorter than a hop from
process to process."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One repeat: seconds of each side's step, and what it drew."""

    ours: float
    trl: float
    tokens: float
    """Mean per completion."""
    trl_tokens: float
    reward: float
    trl_reward: float


def run_pipeline_trl(repeats: int, seed: int, keep: Path | None, workload: str = "spread") -> BenchResult:
    """Measure.

    Args:
        repeats: measured pairs, after one that warms up.
        seed: of prompts and tokens.
        keep: holds model, prompts and run directory afterwards; None deletes them.
        workload: its name.

    Raises:
        ConfigError: there is no such workload.
        StageError: the two sides did not do the same work.
    """
    if workload not in WORKLOADS:
        raise ConfigError(f"no workload {workload!r} for --against trl; there are: {', '.join(WORKLOADS)}")
    work = WORKLOADS[workload]
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        pairs, trl, tried = measure(work, keep or Path(scratch), repeats, seed)
    check_same_work(pairs)
    values = figures(work, pairs, tried) | {"trl_settings": trl}
    return BenchResult("pipeline-trl", values, seed, repeats, workload_of(workload))


def workload_of(workload: str = "spread") -> dict[str, object]:
    """What a result says was measured, by the same option."""
    return {"workload": workload, "against": "trl"}


def measure(work: Workload, root: Path, repeats: int, seed: int) -> tuple[list[Pair], str, float]:
    """Pairs, the name of the settings that TRL was fastest with, and the seconds of its step when they were tried."""
    model = make_random_model(root / "model", hidden=work.hidden, layers=work.layers)
    prompts = write_prompts(root / "prompts.jsonl", num_prompts=work.prompts * (repeats + WARM_UP + 1), seed=seed)
    given = (f"run.dir={root / 'run'}", f"run.seed={seed}", f"model.path={model}", f"data.train.0.path={prompts}")
    config = load_run_config("bench", [*our_settings(work), *given, *work.overrides])
    checked = preflight(config, new_run=True)
    device = checked.plan.device
    trl = _start_trl(work, model, prompts, config.learner.learning_rate, device)
    run_dir = RunDir.create(config)
    pairs = []
    try:
        ready = trl.answer("start", START_SECONDS)
        print(f"TRL's settings, seconds per step: {ready['tried']}; {ready['best']} it is", flush=True)
        with StopSignals() as signals, Display(config, run_dir.path, live=False) as display:
            with open_loop(config, run_dir, checked, display, signals) as loop:
                loop.publish_start()
                for repeat in range(repeats + WARM_UP):
                    pair = _pair(work, loop, trl, trl_first=repeat % 2 == 0)
                    if repeat >= WARM_UP:
                        pairs.append(pair)
                        print(f"repeat {repeat}: {_line(pair)}", flush=True)
    finally:
        trl.stop()
        run_dir.close()
    return pairs, ready["best"], ready["tried"][ready["best"]]


def figures(work: Workload, pairs: Sequence[Pair], tried_seconds: float) -> dict[str, object]:
    """Medians over the repeats; the ratio is paired. Beside TRL's step stands what it took as its settings were tried,
    with nothing of ours around: far less would mean that our side slows TRL down.
    """
    count = work.prompts * work.k
    return {
        "over_trl": Median(pair.trl / pair.ours for pair in pairs),
        "completions_per_second": Median(count / pair.ours for pair in pairs),
        "trl_completions_per_second": Median(count / pair.trl for pair in pairs),
        "step_seconds": Median(pair.ours for pair in pairs),
        "trl_step_seconds": Median(pair.trl for pair in pairs),
        "trl_tried_seconds": tried_seconds,
        "completion_tokens_mean": Median(pair.tokens for pair in pairs),
        "trl_completion_tokens_mean": Median(pair.trl_tokens for pair in pairs),
        "reward_mean": Median(pair.reward for pair in pairs),
        "trl_reward_mean": Median(pair.trl_reward for pair in pairs),
    }


def check_same_work(pairs: Sequence[Pair]) -> None:
    """Raises StageError where one side drew longer completions than the other: its step is another work."""
    ours = sum(pair.tokens for pair in pairs) / len(pairs)
    trl = sum(pair.trl_tokens for pair in pairs) / len(pairs)
    if abs(ours - trl) > SAME_LENGTH * trl:
        raise StageError(
            f"completions have {ours:.1f} tokens in the mean here and {trl:.1f} with TRL: that is other work, "
            "and the times must not be compared"
        )


def num_threads() -> int:
    """Cores that this process, and so both sides, may use."""
    return len(os.sched_getaffinity(0))


def our_settings(work: Workload) -> tuple[str, ...]:
    """Of the preset. Samplers, and after them ranks, have all cores together, as TRL's process has."""
    half = max(1, num_threads() // 2)
    return (
        f"cluster.cpus_per_sampler={half}",
        f"cluster.cpus_per_rank={half}",
        "data.shuffle=false",  # TRL takes the file in order
        f"rollout.prompts_per_step={work.prompts}",
        f"rollout.completions_per_prompt={work.k}",
        f"rollout.max_completion_tokens={work.max_tokens}",
        f"rollout.dtype={fast_dtype()}",
        *(_ON_ONE_GPU if Path("/proc/driver/nvidia/gpus").is_dir() else ()),
    )


_ON_ONE_GPU = ("rollout.num_samplers=1", "learner.num_ranks=1", "cluster.colocate=true")


def candidates(work: Workload, device: str) -> dict[str, dict[str, Any]]:
    """Settings of TRL to try, by name."""
    if device == "cuda":
        vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3}
        return {f"vllm, {rows} rows": {"rows": rows, **vllm} for rows in work.rows}
    plain = {f"generate, {rows} rows": {"rows": rows} for rows in work.rows}
    rows = max(work.rows)
    return plain | {f"continuous batching, {rows} rows": {"rows": rows, "use_transformers_continuous_batching": True}}


def _start_trl(work: Workload, model: Path, prompts: Path, learning_rate: float, device: str) -> Child:
    threads = num_threads()
    env = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    child = Child(
        "TRL's side", "benchmarks.trl_side", env | ({"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {})
    )
    described = TrlWork(str(model), str(prompts), work.prompts, work.k, work.max_tokens, learning_rate, threads, device)
    child.tell({"do": "start", "work": asdict(described), "candidates": candidates(work, device)})
    return child


def _pair(work: Workload, loop: TrainingLoop, trl: Child, *, trl_first: bool) -> Pair:
    def step() -> Mapping[str, float]:
        values = loop.step()
        time.sleep(SETTLE_SECONDS)
        return values

    if trl_first:
        theirs, ours = trl.ask({"do": "step"}, STEP_SECONDS), step()
    else:
        ours, theirs = step(), trl.ask({"do": "step"}, STEP_SECONDS)
    count = work.prompts * work.k
    if theirs["completions"] != count:
        raise StageError(f"TRL drew {theirs['completions']} completions in a step instead of {count}")
    return Pair(
        ours=ours["time/step_seconds"],
        trl=theirs["seconds"],
        tokens=ours["learn/num_tokens"] / count,
        trl_tokens=theirs["tokens"] / count,
        reward=ours["vote/reward_mean"],
        trl_reward=theirs["reward_mean"],
    )


def _line(pair: Pair) -> str:
    return (
        f"step {pair.ours:.2f} s, TRL {pair.trl:.2f} s: {pair.trl / pair.ours:.2f} times TRL; tokens per completion "
        f"{pair.tokens:.1f} / {pair.trl_tokens:.1f}, mean reward {pair.reward:.3f} / {pair.trl_reward:.3f}"
    )
