"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterator

from orchestration.planning.balance import Step
from orchestration.planning.estimate import HEADROOM, Estimate

GB = 1e9
SMALL = 0.1
"""Below it a number of GB, billions or seconds is shown in the next smaller unit."""


def render(plan: Estimate) -> str:
    """Lines for a terminal; GB are 10^9 bytes."""
    lines = [*_model(plan), "", *_learner(plan), "", *_sampler(plan), "", *_steps(plan)]
    if plan.problems:
        lines += ["", "does not fit:"] + [f"  - {problem}" for problem in plan.problems]
    return "\n".join(lines)


def _model(plan: Estimate) -> Iterator[str]:
    shape, hardware = plan.shape, plan.hardware
    billions = shape.num_parameters / 1e9
    parameters = f"{billions:.2f} B" if billions >= SMALL else f"{1e3 * billions:.2f} M"
    yield (
        f"{shape.name}: {parameters} parameters, {shape.layers} layers of {shape.hidden}, "
        f"vocabulary {shape.vocabulary:,}"
    )
    yield f"{hardware.gpus} GPUs of {hardware.gpu_bytes / GB:.0f} GB, {hardware.gpus_per_node} per node"


def _learner(plan: Estimate) -> Iterator[str]:
    section = plan.config.learner
    offload = f", offload {section.offload}" if section.offload != "none" else ""
    yield f"learner rank (1 of {section.num_ranks}, ZeRO-{section.zero_stage}{offload}, {section.precision})"
    for part in plan.learner.parts:
        when = "" if part.phase == "always" else f"  while in {part.phase}"
        where = "  host" if part.place == "host" else ""
        yield f"  {part.name:<38}{size(part.num_bytes):>12}{where}{when}"
    yield f"  {'peak on the device':<38}{size(plan.learner.peak('device')):>12}  {_verdict(plan)}"
    yield f"  {'peak on the host':<38}{size(plan.learner.peak('host')):>12}"


def size(num_bytes: float) -> str:
    """Of memory, in GB, or in MB where GB would round most of it away."""
    return f"{num_bytes / GB:.2f} GB" if num_bytes >= SMALL * GB or not num_bytes else f"{1e3 * num_bytes / GB:.2f} MB"


def duration(seconds: float, decimals: int = 1) -> str:
    """In seconds, or in milliseconds where seconds would round most of it away."""
    return f"{seconds:.{decimals}f}s" if seconds >= SMALL or not seconds else f"{1e3 * seconds:.{decimals}f}ms"


def _verdict(plan: Estimate) -> str:
    room = HEADROOM * plan.hardware.gpu_bytes
    fits = plan.learner.peak("device") <= room
    return f"{'fits' if fits else 'DOES NOT FIT'} in {room / GB:.1f} GB ({HEADROOM:.0%} of the device)"


def _sampler(plan: Estimate) -> Iterator[str]:
    sampler, rollout = plan.sampler, plan.config.rollout
    yield f"sampler's worker (1 of {rollout.tensor_parallel_size})"
    for part in sampler.memory.parts:
        yield f"  {part.name:<38}{size(part.num_bytes):>12}"
    per_token = sampler.kv_bytes_per_token / 1e3
    yield f"  {'limit of the engine':<38}{size(sampler.limit_bytes):>12}"
    yield f"  {per_token:.1f} kB per token, {sampler.cached_tokens:,} tokens in the cache"
    yield (
        f"  {sampler.concurrent_full:,} completions at once of the full {plan.config.max_model_len:,} tokens, "
        f"{sampler.concurrent_mean:,} at the mean of {plan.rates.mean_completion_tokens:,.0f}"
    )


def _steps(plan: Estimate) -> Iterator[str]:
    rates = plan.rates
    yield f"rates: {rates.source}"
    yield (
        f"  {rates.sampler_tokens_per_second:,.0f} completion tokens/s per sampler, "
        f"{rates.learner_tokens_per_second:,.0f} per rank"
    )
    yield f"  {'':<14}{'samplers':>9}{'ranks':>7}{'GPUs':>6}{'rollout':>10}{'learn':>9}{'sync':>8}{'step':>9}  GPU-h"
    yield _step_line(plan, "configured", plan.configured)
    if plan.recommended is None:
        yield "  no split of these GPUs fits"
        return
    yield _step_line(plan, "recommended", plan.recommended)
    best, workers = plan.recommended, plan.config.rollout.tensor_parallel_size
    settings = f"rollout.num_samplers={best.num_samplers} learner.num_ranks={best.num_ranks}"
    yield f"  that is {settings}, samplers of {workers} GPUs"


def _step_line(plan: Estimate, name: str, step: Step) -> str:
    hours = plan.gpu_hours(step)
    cost = f"  cost {hours * plan.hardware.price:,.2f}" if plan.hardware.price else ""
    return (
        f"  {name:<14}{step.num_samplers:>9}{step.num_ranks:>7}{step.gpus:>6}{duration(step.rollout_seconds):>10}"
        f""
        f"{duration(step.learn_seconds):>9}{duration(step.sync_seconds, 2):>8}{duration(step.seconds):>9}"
        f"  {hours:.3f}{cost}  slower: {step.limited_by}" + (", in turn" if not step.overlaps else ", side by side")
    )
