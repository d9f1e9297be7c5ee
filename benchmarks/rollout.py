"""`quorum bench rollout`: a step's groups drawn by 1, 2, 4 ... real samplers, as a run draws them, without a learner.

For every number of samplers the engines start anew; the first step warms up, every further one is timed from its first
request to its last finished group. All samplers draw the same prompts from the same seeds, so the tokens are the same
and the step's time is what changes with their number. Samplers have `cluster.cpus_per_sampler` cores each (1): beyond
the cores of the machine the curve must go flat.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import make_random_model, write_prompts
from benchmarks.results import BenchResult, Median
from benchmarks.shapes import save_shape
from configs.schema import RunConfig
from data.model_files import load_tokenizer
from data.prompts import PromptOrder, load_prompts
from orchestration.plan import make_plan
from orchestration.processor import fast_dtype
from orchestration.registries import load_run_config
from orchestration.rollout_phase import train_key
from orchestration.stack import Stack
from quorum.errors import ConfigError, StageError
from quorum.types import GroupRequest, SamplingSettings, group_seed
from rollout.pool import SamplerPool

SAMPLERS = (1, 2, 4)
PUMP_SECONDS = 0.2
STEP_SECONDS = 600.0
OWN_MODEL = "3m-spread"
"""The 3.2 M-parameter model whose completions have 77 tokens in the mean."""


@dataclass(frozen=True, slots=True)
class Step:
    """The groups of one step, drawn."""

    seconds: float
    num_completions: int
    num_tokens: int


def run_rollout(
    repeats: int, seed: int, keep: Path | None, samplers: Sequence[int] = SAMPLERS, model: str = OWN_MODEL
) -> BenchResult:
    """Measure.

    Args:
        repeats: timed steps for every number of samplers.
        seed: of prompts and tokens.
        keep: holds model and prompts afterwards; None deletes them.
        samplers: numbers of samplers, smallest first.
        model: a shape of `benchmarks.shapes`, whose random weights the engine makes itself, or OWN_MODEL.

    Raises:
        ConfigError: there is no such shape, or no number of samplers.
    """
    if not samplers or min(samplers) < 1:
        raise ConfigError(f"--samplers {','.join(map(str, samplers))}: expected numbers from 1 on, as in 1,2,4")
    steps: dict[int, list[Step]] = {}
    with tempfile.TemporaryDirectory(prefix="quorum-bench-") as scratch:
        root = keep or Path(scratch)
        words = model_settings(model, root / "model")
        for count in sorted(samplers):
            config = make_config(root, words, count, repeats, seed)
            with sampler_pool(config) as (pool, order):
                steps[count] = [draw(pool, config, order, step) for step in range(repeats + 1)][1:]
            print(_line(count, steps[count]), flush=True)
    return BenchResult("rollout", figures(steps), seed, repeats, workload_of(samplers, model))


def workload_of(samplers: Sequence[int] = SAMPLERS, model: str = OWN_MODEL) -> dict[str, object]:
    """What a result says was measured, by the same options."""
    return {"model": model, "samplers": sorted(samplers)}


def model_settings(model: str, directory: Path) -> list[str]:
    """Save the model; returns the settings that name it."""
    if model == OWN_MODEL:
        make_random_model(directory)
        return [f"model.path={directory}"]
    save_shape(directory, model)
    return [f"model.path={directory}", "rollout.engine.options.load_format=dummy"]


def make_config(root: Path, words: Sequence[str], num_samplers: int, repeats: int, seed: int) -> RunConfig:
    """The preset's workload, with prompts for every step."""
    config = load_run_config(
        "bench",
        [
            f"run.dir={root / f'run-{num_samplers}'}",
            "run.mode=rollout_only",
            f"rollout.dtype={fast_dtype()}",
            f"run.seed={seed}",
            f"data.train.0.path={root / 'prompts.jsonl'}",
            f"rollout.num_samplers={num_samplers}",
            *words,
        ],
    )
    write_prompts(root / "prompts.jsonl", num_prompts=config.rollout.prompts_per_step * (repeats + 1), seed=seed)
    return config


@contextmanager
def sampler_pool(config: RunConfig) -> Iterator[tuple[SamplerPool, PromptOrder]]:
    """Ray with the samplers of a run, ready, and its prompts."""
    # Not the checks of a run: they ask for weights, which an engine that makes its own needs not.
    plan = make_plan(config, with_learner=False)
    prompts = load_prompts(
        config.data.train, config.data, load_tokenizer(config.model), max_prompt_tokens=config.data.max_prompt_tokens
    )
    namespace = f"quorum-bench-{uuid.uuid4().hex[:12]}"
    stack = Stack.start(config, plan, namespace, with_learner=False, initial_version=0)
    try:
        assert stack.pool is not None, "the plan has samplers"
        yield stack.pool, prompts.order(config.run.seed, config.data.shuffle)
    finally:
        stack.stop()


def draw(pool: SamplerPool, config: RunConfig, order: PromptOrder, step: int) -> Step:
    """Have the groups of a step drawn.

    Raises:
        StageError: a group was given up, or they did not end in time.
    """
    section, count = config.rollout, config.rollout.prompts_per_step
    requests = []
    for group_id in range(step * count, (step + 1) * count):
        key = train_key(0, group_id)
        sampling = SamplingSettings(
            num_completions=section.completions_per_prompt,
            temperature=section.temperature,
            top_p=section.top_p,
            max_completion_tokens=section.max_completion_tokens,
        )
        seed = group_seed(config.run.seed, key)
        prompt = order.prompt_at(group_id)
        requests.append(GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=seed, required_version=0))
    began = time.monotonic()
    for request in requests:
        pool.submit(request)
    receipts = []
    while len(receipts) < count:
        if time.monotonic() - began > STEP_SECONDS:
            raise StageError(f"{len(receipts)} of {count} groups came back within {STEP_SECONDS:.0f} s")
        for finished in pool.pump(PUMP_SECONDS):
            if finished.receipt is None:
                raise StageError(f"group {finished.request.key.group_id} was given up: {pool.take_events()}")
            receipts.append(finished.receipt)
    seconds = time.monotonic() - began
    return Step(seconds, count * section.completions_per_prompt, sum(receipt.num_tokens for receipt in receipts))


def figures(steps: dict[int, list[Step]]) -> dict[str, object]:
    """Medians by number of samplers; shares are of what so many times the fewest samplers' rate would be."""
    rates = {count: Median(step.num_tokens / step.seconds for step in drawn) for count, drawn in steps.items()}
    least = min(steps)
    values: dict[str, object] = {}
    for count, drawn in steps.items():
        values[f"completions_per_second_{count}"] = Median(step.num_completions / step.seconds for step in drawn)
        values[f"tokens_per_second_{count}"] = rates[count]
        values[f"step_seconds_{count}"] = Median(step.seconds for step in drawn)
        values[f"linear_share_{count}"] = float(rates[count]) / (float(rates[least]) * count / least)
    first = steps[least]
    drawn_tokens, completions = sum(s.num_tokens for s in first), sum(s.num_completions for s in first)
    values["completion_tokens_mean"] = drawn_tokens / completions
    tokens = [[step.num_tokens for step in drawn] for drawn in steps.values()]
    values["tokens_equal"] = all(drawn == tokens[0] for drawn in tokens)
    return values


def _line(count: int, drawn: Sequence[Step]) -> str:
    seconds = Median(step.seconds for step in drawn)
    rate = Median(step.num_tokens / step.seconds for step in drawn)
    return f"{count} samplers: {seconds:.2f} s a step, {rate:,.0f} tokens/s"
