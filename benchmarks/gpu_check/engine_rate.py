"""Tokens per second of our sampler, beside `vllm bench throughput` or beside itself in batch-invariant mode.

Every side runs in a process of its own, one after the other, on the same random model, lengths and engine arguments,
with CUDA graphs on. Ours draws the seeded completions of groups and keeps their log-probabilities, as a run does; the
other side does neither. The stage's figure is a ratio of output tokens per second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.shapes import make_shape, shape_of
from orchestration.cli.result import result_line
from quorum.errors import StageError

SIDE_SECONDS = 400.0
"""For one side, its start included."""
START_SECONDS = 300.0
WARM_PROMPTS = 8
INVARIANT = {"VLLM_BATCH_INVARIANT": "1"}
_OUTPUT_RATE = re.compile(r"([0-9.]+) output tokens/s")


def main() -> None:
    """Measure and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", choices=("vllm", "invariant"), default="vllm", help="with what (default: vllm)")
    parser.add_argument("--shape", default="qwen2.5-1.5b")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--completions", type=int, default=16, help="per prompt (default: 16)")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--completion-tokens", type=int, default=512)
    parser.add_argument("--running", type=int, default=512, help="completions in the engine (default: 512)")
    parser.add_argument("--repeats", type=int, default=2, help="of our side; the median counts (default: 2)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="0.1 M parameters, 4 prompts x 2, 16 tokens")
    parser.add_argument("--model", help="directory; without one it is made (given: our side alone is measured)")
    options = parser.parse_args()
    if options.tiny:
        options.shape, options.prompts, options.completions, options.repeats = "tiny", 4, 2, 1
        options.prompt_tokens, options.completion_tokens, options.running = 16, 16, 8
    if options.model:
        print(result_line("ours", asyncio.run(our_rate(options)), seed=0, repeats=options.repeats), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="quorum-rate-") as scratch:
        options.model = str(make_shape(Path(scratch) / "model", options.shape, device=options.device, dtype="bfloat16"))
        values = _against_vllm(options) if options.compare == "vllm" else _against_invariant(options)
    values |= {"shape": options.shape, "prompts": options.prompts, "completions": options.completions}
    print(result_line("engine_rate", values, seed=0, repeats=options.repeats), flush=True)


def _against_vllm(options: argparse.Namespace) -> dict[str, Any]:
    theirs = their_rate(options)
    ours = _our_side(options, {})
    return {"over_vllm": ours["tokens_per_second"] / theirs, "vllm_tokens_per_second": theirs, **ours}


def _against_invariant(options: argparse.Namespace) -> dict[str, Any]:
    usual = _our_side(options, {})
    # Triton, which the mode is written in, has nothing to run on without a GPU.
    invariant = _our_side(options, INVARIANT if options.device == "cuda" else {})
    speeds = invariant["tokens_per_second"], usual["tokens_per_second"]
    return {"invariant_over_usual": speeds[0] / speeds[1], "invariant_tokens_per_second": speeds[0], **usual}


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """What both sides are told beyond the device's defaults."""
    told: dict[str, Any] = {"max_num_seqs": options.running}
    if options.device == "cuda":
        told |= {"gpu_memory_utilization": 0.85, "max_num_batched_tokens": 8192}
    return told


def sampler_settings(options: argparse.Namespace) -> Any:
    """Our sampler's."""
    from rollout.settings import SamplerSettings

    return SamplerSettings(
        sampler_id="rate",
        model=options.model,
        dtype="bfloat16",
        max_model_len=options.prompt_tokens + options.completion_tokens,
        device=options.device,
        num_threads=len(os.sched_getaffinity(0)),
        weight_backend="nccl" if options.device == "cuda" else "gloo",
        engine_options=engine_options(options),
    )


def _our_side(options: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu_check.engine_rate", "--model", options.model]
    for name in ("prompts", "completions", "prompt_tokens", "completion_tokens", "running", "repeats", "device"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    said = _run(command, environment, "our sampler")
    found = json.loads([line for line in said.splitlines() if line.startswith("RESULT ")][-1].removeprefix("RESULT "))
    return {name: found[name] for name in ("tokens_per_second", "tokens_per_second_all", "mean_completion_tokens")}


async def our_rate(options: argparse.Namespace) -> dict[str, Any]:
    """Output tokens per second of our sampler, after a warm-up."""
    from rollout.sampler import Sampler

    sampler = Sampler(sampler_settings(options))
    await asyncio.wait_for(sampler.start(), START_SECONDS)
    rates, num_tokens = [], 0
    try:
        for repeat in range(options.repeats + 1):
            prompts = options.prompts if repeat else min(WARM_PROMPTS, options.prompts)
            began = time.perf_counter()
            calls = [sampler.generate(_request(options, repeat, index)) for index in range(prompts)]
            drawn = await asyncio.wait_for(asyncio.gather(*calls), SIDE_SECONDS)
            seconds = time.perf_counter() - began
            num_tokens = sum(len(one.token_ids) for _, group in drawn for one in group.completions)
            rates.append(num_tokens / seconds)
    finally:
        await asyncio.wait_for(sampler.stop(), SIDE_SECONDS)
    return {
        "tokens_per_second": statistics.median(rates[1:]),
        "tokens_per_second_all": [round(rate, 1) for rate in rates[1:]],
        "mean_completion_tokens": num_tokens / (options.prompts * options.completions),
    }


def _request(options: argparse.Namespace, repeat: int, index: int) -> Any:
    import numpy as np

    from quorum.types import GroupKey, GroupRequest, Prompt, Role, SamplingSettings, group_seed

    key = GroupKey(repeat, Role.TRAIN, repeat * options.prompts + index)
    generator = np.random.default_rng(key.group_id)
    # Of the tokenizer's part of the vocabulary, and new ones in every repeat: nothing of it is in the prefix cache.
    tokens = generator.integers(3, shape_of("tiny").vocabulary, size=options.prompt_tokens, dtype=np.int32)
    sampling = SamplingSettings(
        num_completions=options.completions,
        temperature=1.0,
        top_p=1.0,
        max_completion_tokens=options.completion_tokens,
    )
    prompt = Prompt(prompt_id=f"{key.group_id}", data_source="rate", token_ids=tokens, text="")
    return GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=group_seed(0, key), required_version=0)


def their_rate(options: argparse.Namespace) -> float:
    """Output tokens per second of `vllm bench throughput`."""
    command, environment = their_side(options)
    said = _run(command, environment, "vllm bench throughput")
    found = _OUTPUT_RATE.search(said)
    if found is None:
        raise StageError(f"vllm bench throughput told no output tokens/s; it said: {said[-1500:]}")
    return float(found.group(1))


def their_side(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Command and environment of `vllm bench throughput`: our engine arguments but those that a run alone needs."""
    from rollout.engines.vllm_options import engine_arguments, set_environment

    settings = sampler_settings(options)
    environment: dict[str, str] = {}
    set_environment(settings, environment)
    arguments = engine_arguments(settings)
    for ours_alone in ("weight_transfer_config", "worker_extension_cls", "logprobs_mode", "revision"):
        arguments.pop(ours_alone)
    command = [sys.executable, "-m", "benchmarks.gpu_check.vllm_throughput", *flags(arguments)]
    command += ["--dataset-name", "random", "--num-prompts", str(options.prompts), "--n", str(options.completions)]
    command += ["--random-input-len", str(options.prompt_tokens), "--random-output-len", str(options.completion_tokens)]
    command += ["--num-warmups", str(min(WARM_PROMPTS, options.prompts))]
    return command, environment


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line takes them."""
    found: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            found += [f"--{flag}", str(value)]
    return found


def _run(command: list[str], environment: Mapping[str, str], what: str) -> str:
    """Its output, which is printed too. Raises StageError when it fails or is late."""
    try:
        done = subprocess.run(
            command,
            env=os.environ | dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SIDE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(f"{what} did not end within {SIDE_SECONDS:.0f} s") from error
    print("\n".join(f"{what}: {line}" for line in done.stdout.splitlines()), flush=True)
    if done.returncode:
        raise StageError(f"{what} ended with {done.returncode} (above)")
    return done.stdout


if __name__ == "__main__":
    main()
