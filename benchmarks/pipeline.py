"""`quorum bench pipeline`: one whole step against bare vLLM plus a bare training loop, alternating in one run.

Both sides have the same model, prompts and seeds, and train on the tokens they drew; the bare engine keeps its first
weights, so token counts drift apart by some tenths of a percent. Reported are medians of the paired ratios: rollout,
learn and the whole step over bare, and the share of everything else.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from benchmarks.models import make_random_model, write_prompts
from benchmarks.results import BenchResult, Median
from configs.schema import RunConfig
from data.prompts import PromptOrder
from orchestration.loop import TrainingLoop
from orchestration.preflight import preflight
from orchestration.processor import fast_dtype
from orchestration.registries import load_run_config
from orchestration.rollout_phase import train_key
from orchestration.run_dir import RunDir
from orchestration.signals import StopSignals
from orchestration.training import open_loop
from orchestration.watch.display import Display
from quorum.types import group_seed

PROMPTS, K, MAX_TOKENS = 32, 16, 192
BARE_START_SECONDS, BARE_STEP_SECONDS = 300.0, 600.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One repeat: seconds of the pipeline's step and of the bare side, same groups."""

    step: float
    rollout: float
    learn: float
    bare_rollout: float
    bare_learn: float
    tokens: int
    bare_tokens: int


class BareProcess(Child):
    """The bare side in its own process."""

    def __init__(self, model: Path, config: RunConfig) -> None:
        env = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_CPU_ATTN_SPLIT_KV": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
        }
        super().__init__("the bare side", "benchmarks.bare", env)
        order = {"do": "start", "model": str(model), "precision": config.learner.precision}
        order["dtype"] = config.rollout.dtype
        self.ask(order | {"max_model_len": config.max_model_len}, BARE_START_SECONDS)


def run_pipeline(repeats: int, seed: int, keep: Path | None) -> BenchResult:
    """Measure. `keep` holds the run directory afterwards; None deletes it."""
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        root = keep or Path(scratch)
        model = make_random_model(root / "model")
        prompts = write_prompts(root / "prompts.jsonl", num_prompts=PROMPTS * (repeats + 2), seed=seed)
        config = load_run_config(
            "bench",
            [
                f"run.dir={root / 'run'}",
                f"model.path={model}",
                f"data.train.0.path={prompts}",
                f"rollout.dtype={fast_dtype()}",
            ],
        )
        config = config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
        pairs = _measure(config, model, repeats)
    return BenchResult("pipeline", _figures(pairs), seed=seed, repeats=repeats)


def _measure(config: RunConfig, model: Path, repeats: int) -> list[Pair]:
    checked = preflight(config, new_run=True)
    run_dir = RunDir.create(config)
    pairs: list[Pair] = []
    with StopSignals() as signals, Display(config, run_dir.path, live=False) as display:
        with open_loop(config, run_dir, checked, display, signals) as loop:
            loop.publish_start()
            bare = BareProcess(model, config)
            try:
                for repeat in range(repeats + 1):
                    pair = _pair(config, loop, bare, loop.order, bare_first=repeat % 2 == 0)
                    # The first pair pays for warm-up on both sides and is left out.
                    if repeat:
                        pairs.append(pair)
                        print(f"repeat {repeat}: {_line(pair)}", flush=True)
            finally:
                bare.stop()
    run_dir.close()
    return pairs


def _pair(config: RunConfig, loop: TrainingLoop, bare: BareProcess, order: PromptOrder, *, bare_first: bool) -> Pair:
    first = loop.buffer.next_group_id
    keys = [train_key(0, first + i) for i in range(PROMPTS)]
    request = {
        "do": "rollout",
        "prompts": [order.prompt_at(key.group_id).token_ids.tolist() for key in keys],
        "seeds": [group_seed(config.run.seed, key) for key in keys],
        "k": K,
        "max_tokens": MAX_TOKENS,
    }

    def run_bare() -> tuple[dict[str, Any], dict[str, Any]]:
        return bare.ask(request, BARE_STEP_SECONDS), bare.ask({"do": "learn"}, BARE_STEP_SECONDS)

    def run_step() -> dict[str, float]:
        values = loop.step()
        time.sleep(0.5)  # the step's file is still being written: let it not weigh on the other side
        return values

    if bare_first:
        drawn, learned = run_bare()
        values = run_step()
    else:
        values = run_step()
        drawn, learned = run_bare()
    return Pair(
        step=values["time/step_seconds"],
        rollout=values["time/rollout_seconds"],
        learn=values["time/learn_seconds"],
        bare_rollout=drawn["seconds"],
        bare_learn=learned["seconds"],
        tokens=int(values["learn/num_tokens"]),
        bare_tokens=drawn["tokens"],
    )


def _figures(pairs: list[Pair]) -> dict[str, object]:
    return {
        "step_over_bare": Median([p.step / (p.bare_rollout + p.bare_learn) for p in pairs]),
        "rollout_over_bare": Median([p.rollout / p.bare_rollout for p in pairs]),
        "learn_over_bare": Median([p.learn / p.bare_learn for p in pairs]),
        "rest_share": Median([(p.step - p.rollout - p.learn) / p.step for p in pairs]),
        "step_seconds": Median([p.step for p in pairs]),
        "bare_seconds": Median([p.bare_rollout + p.bare_learn for p in pairs]),
        "completion_tokens_mean": Median([p.tokens / (PROMPTS * K) for p in pairs]),
        "tokens_equal": all(p.tokens == p.bare_tokens for p in pairs),
    }


def _line(pair: Pair) -> str:
    return (
        f"step {pair.step:.2f} s (rollout {pair.rollout:.2f}, learn {pair.learn:.2f}), "
        f"bare {pair.bare_rollout:.2f} + {pair.bare_learn:.2f} s, {pair.tokens} / {pair.bare_tokens} tokens"
    )
