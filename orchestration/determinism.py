"""Whether an engine gives the same tokens and logprobs for the same requests whatever else it is serving.

Behind `quorum doctor --determinism MODEL`. Where it holds, a run that is killed, resumed or given other samplers
repeats itself bit for bit; where it does not, only what is on record is exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quorum.errors import DataError
from quorum.types import GroupKey, GroupRequest, Prompt, Role, RolloutGroup, SamplingSettings, group_seed

if TYPE_CHECKING:
    from rollout.sampler import Sampler
    from rollout.settings import SamplerSettings

NUM_PROMPTS = 12
COMPLETIONS_PER_PROMPT = 4
SMALL_BATCH = 4
MAX_PROMPT_TOKENS = 200
MAX_COMPLETION_TOKENS = 192
START_SECONDS = 900.0
PASS_SECONDS = 1800.0
"""Deadline for one pass over all requests."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of the comparison."""

    is_reproducible: bool
    num_token_differences: int
    """Completions whose tokens differ in some pass from those decoded alone."""
    num_logprob_differences: int
    """Completions whose logprobs differ in some bit, counted where their tokens are equal."""
    details: tuple[str, ...]

    @property
    def text(self) -> str:
        return "tokens and logprobs reproducible" if self.is_reproducible else "ledger exact, tokens not"


def check(model: str, *, dtype: str = "bfloat16", say: Callable[[str], None] | None = None) -> Verdict:
    """Start one sampler of `model` on this machine and run the same requests alone, in small and in large batches.

    Args:
        model: directory or hub name of a Hugging Face causal model.
        dtype: precision of the sampler, as rollout.dtype.
        say: called with a line of progress before each pass.

    Raises:
        DataError: the model cannot be read.
        ResourceError: the engine does not come up.
        RolloutError: the engine failed while it generated.
    """
    return asyncio.run(_check(model, dtype, say or (lambda line: None)))


def make_requests(vocabulary_size: int, longest_prompt: int, max_completion_tokens: int) -> list[GroupRequest]:
    """Requests with random prompts of 8 to `longest_prompt` tokens, always the same ones."""
    import numpy as np

    generator = np.random.default_rng(0)
    sampling = SamplingSettings(
        num_completions=COMPLETIONS_PER_PROMPT, temperature=1.0, top_p=1.0, max_completion_tokens=max_completion_tokens
    )
    requests = []
    for index in range(NUM_PROMPTS):
        length = int(generator.integers(8, longest_prompt + 1))
        token_ids = generator.integers(0, vocabulary_size, size=length, dtype=np.int32)
        prompt = Prompt(prompt_id=f"{index:032x}", data_source="determinism", token_ids=token_ids, text="")
        key = GroupKey(0, Role.PROBE, index)
        seed = group_seed(0, key)
        requests.append(GroupRequest(key=key, prompt=prompt, sampling=sampling, seed=seed, required_version=0))
    return requests


def compare(alone: Sequence[RolloutGroup], passes: dict[str, Sequence[RolloutGroup]]) -> Verdict:
    """Count the completions whose tokens, or bits of logprobs, differ from those decoded alone.

    Args:
        alone: one group per request, in request order.
        passes: by name, the same requests' groups in the same order.
    """
    tokens: set[tuple[int, int]] = set()
    bits: set[tuple[int, int]] = set()
    details = []
    for name, groups in passes.items():
        new_tokens, new_bits = _differences(alone, groups)
        details.append(f"{name}: {len(new_tokens)} completions with other tokens, {len(new_bits)} with other logprobs")
        tokens |= new_tokens
        bits |= new_bits
    num_completions = sum(len(group.completions) for group in alone)
    num_tokens = sum(len(completion.token_ids) for group in alone for completion in group.completions)
    details.insert(0, f"compared {num_completions} completions, {num_tokens:,} tokens, with those decoded alone")
    return Verdict(
        is_reproducible=not tokens and not bits,
        num_token_differences=len(tokens),
        num_logprob_differences=len(bits - tokens),
        details=tuple(details),
    )


def _differences(
    expected: Sequence[RolloutGroup], got: Sequence[RolloutGroup]
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    tokens, bits = set(), set()
    for first, second in zip(expected, got, strict=True):
        for one, other in zip(first.completions, second.completions, strict=True):
            if one.token_ids.tobytes() != other.token_ids.tobytes():
                tokens.add((first.group_id, one.index))
            elif one.rollout_logprobs.tobytes() != other.rollout_logprobs.tobytes():
                bits.add((first.group_id, one.index))
    return tokens, bits


async def _check(model: str, dtype: str, say: Callable[[str], None]) -> Verdict:
    from rollout.sampler import Sampler

    settings, requests = _plan(model, dtype)
    sampler = Sampler(settings)
    try:
        say(f"starting one sampler of {model}")
        await asyncio.wait_for(sampler.start(), START_SECONDS)
        say("generating alone, in small batches, in one large batch")
        alone = await asyncio.wait_for(_in_batches(sampler, requests, 1), PASS_SECONDS)
        small = await asyncio.wait_for(_in_batches(sampler, requests, SMALL_BATCH), PASS_SECONDS)
        large = await asyncio.wait_for(_in_batches(sampler, requests[::-1], NUM_PROMPTS), PASS_SECONDS)
    finally:
        await asyncio.wait_for(sampler.stop(), settings.stop_seconds * 2)
    return compare(alone, {f"in batches of {SMALL_BATCH}": small, "all at once": large[::-1]})


async def _in_batches(sampler: Sampler, requests: Sequence[GroupRequest], size: int) -> list[RolloutGroup]:
    groups: list[RolloutGroup] = []
    for start in range(0, len(requests), size):
        calls = (sampler.generate(request) for request in requests[start : start + size])
        groups.extend(group for _, group in await asyncio.gather(*calls))
    return groups


def _plan(model: str, dtype: str) -> tuple[SamplerSettings, list[GroupRequest]]:
    """Sampler settings for this machine and requests that fit the model's context and vocabulary."""
    import os

    from transformers import AutoConfig

    from orchestration.machine import cuda_devices
    from rollout.settings import SamplerSettings

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise DataError(f"model {model}: {str(error).splitlines()[0]}") from error
    text_config = config.get_text_config()
    context = min(getattr(text_config, "max_position_embeddings", 4096), MAX_PROMPT_TOKENS + MAX_COMPLETION_TOKENS)
    longest_prompt = min(MAX_PROMPT_TOKENS, context // 2)
    on_gpu = bool(cuda_devices())
    settings = SamplerSettings(
        sampler_id="determinism",
        model=model,
        dtype=dtype,  # type: ignore[arg-type]
        max_model_len=context,
        device="cuda" if on_gpu else "cpu",
        num_threads=len(os.sched_getaffinity(0)),
        weight_backend="nccl" if on_gpu else "gloo",
    )
    return settings, make_requests(text_config.vocab_size, longest_prompt, context - longest_prompt)
