"""Memory of a learner rank: what ZeRO partitions (arXiv 1910.02054), what it does not, and a micro-batch beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from configs.schema import LearnerSection, RunConfig
from learner.batch import MIN_REPEATED_SHARE, REPEATED_WEIGHT, micro_batch_tokens
from learner.orders import needs_reference
from orchestration.planning.activations import FLOAT, HALF, Activations, Compute, activations
from orchestration.planning.parts import Memory, Part, Phase, Place
from orchestration.planning.shape import ModelShape

BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's reduce_bucket_size: a buffer of so many elements, whatever the model's size."""
LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters: so many gathered parameters ZeRO-3 keeps for their next use."""
PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's stage3_prefetch_bucket_size: so many are gathered in one buffer, out of which they are copied."""
PERSISTENT_ELEMENTS = 100_000
"""DeepSpeed's stage3_param_persistence_threshold: smaller parameters stay whole under ZeRO-3."""
COALESCED_BYTES = 1 << 28
"""learner.zero keeps gradients up to this size whole over an update under ZeRO-2 (its MAX_COALESCED_BYTES)."""
MAX_LOGITS = 1 << 25
"""learner.policy holds so many logits at once (its MAX_LOGITS)."""
NUM_STAGING = 2
"""Buckets of other ranks that rank 0 holds while it sends (learner.exchange)."""


BUCKETS = "reduction buckets"


@dataclass(frozen=True, slots=True)
class Load:
    """The largest micro-batch of a rank."""

    num_tokens: int
    """That are computed."""
    num_completion_tokens: int
    num_repeated_tokens: int = 0
    """Prompt tokens of completions that share theirs: keys and values alone are copied."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Elements and bytes that follow from the configuration."""

    trained: int
    frozen: int
    weight: int
    """Bytes of one weight."""
    share: float
    """Of the parameters that this rank holds under ZeRO-3; 1 below."""
    optimizer_share: float
    optimizer_place: Place
    weight_place: Place


def full_load(config: RunConfig, device: str) -> Load:
    """A micro-batch as large as the configuration allows, of completions of the longest length after such prompts."""
    section = config.learner
    prompt, completion = config.data.max_prompt_tokens, config.rollout.max_completion_tokens
    longest, part = prompt + completion, section.sequence_parallel_size
    tokens = max(longest, micro_batch_tokens(section, device))
    once = prompt / config.rollout.completions_per_prompt
    if part == 1 and prompt - once > MIN_REPEATED_SHARE * longest:
        num_rows = tokens / (completion + once + (prompt - once) / REPEATED_WEIGHT)
        return Load(*(math.ceil(num_rows * each) for each in (completion + once, completion, prompt)))
    return Load(-(-tokens // part), -(-(tokens * completion // longest) // part))


def learner_memory(config: RunConfig, shape: ModelShape, *, on_gpu: bool, load: Load | None = None) -> Memory:
    """Of the rank that needs most.

    Args:
        config: of the run.
        shape: of its model; reference, critic and average are taken to be of that shape too.
        on_gpu: whether ranks have GPUs; on a CPU device and host are the same memory.
        load: the micro-batch; None takes `full_load`.
    """
    section = config.learner
    load = load or full_load(config, "cuda" if on_gpu else "cpu")
    sizes = _sizes(section, shape)
    compute = _compute(section, on_gpu)
    kept = activations(shape, compute, load.num_tokens, load.num_completion_tokens, load.num_repeated_tokens)
    parts = [*_weights(sizes), *_gradients(section, sizes), *_optimizer(section, sizes)]
    parts += _zero_buffers(section, sizes, shape, on_gpu)
    parts += _activation_parts(kept, compute, sizes)
    parts += _other_models(config, sizes, shape)
    parts += _snapshot(config, shape) if on_gpu else []
    return Memory.of(parts)


def _sizes(section: LearnerSection, shape: ModelShape) -> _Sizes:
    adapters = shape.adapter_parameters(section.lora) if section.lora.rank else 0
    whole = shape.num_parameters
    share = 1 / section.num_ranks
    return _Sizes(
        trained=adapters or whole,
        frozen=whole if adapters else 0,
        weight=HALF if section.precision == "bfloat16" and section.zero_stage >= 2 else FLOAT,
        share=share if section.zero_stage == 3 else 1.0,
        optimizer_share=share if section.zero_stage else 1.0,
        optimizer_place="host" if section.offload != "none" else "device",
        weight_place="host" if section.offload == "all" else "device",
    )


def _compute(section: LearnerSection, on_gpu: bool) -> Compute:
    kind = "float32"
    if section.precision == "bfloat16":
        kind = "bfloat16" if section.zero_stage >= 2 else "autocast"
    return Compute(kind=kind, on_gpu=on_gpu, checkpointing=section.gradient_checkpointing, max_logits=MAX_LOGITS)


def _weights(sizes: _Sizes) -> Iterator[Part]:
    elements = (sizes.trained + sizes.frozen) * sizes.share
    yield Part("weights", elements * sizes.weight, sizes.weight_place)


def _gradients(section: LearnerSection, sizes: _Sizes) -> Iterator[Part]:
    """Accumulated in float32: whole at stages 0 and 1 and where they are coalesced, else this rank's share."""
    stage, whole = section.zero_stage, FLOAT * sizes.trained
    is_whole = stage < 2 or (stage == 2 and whole <= COALESCED_BYTES)
    yield Part("gradients", whole if is_whole else whole * sizes.optimizer_share)
    if stage in (1, 2) and is_whole:
        phase: Phase = "step" if section.offload == "none" else "always"
        yield Part("gradients of this rank's share", whole * sizes.optimizer_share, sizes.optimizer_place, phase)


def _optimizer(section: LearnerSection, sizes: _Sizes) -> Iterator[Part]:
    share = sizes.trained * sizes.optimizer_share * FLOAT
    if section.zero_stage:
        yield Part("master weights", share, sizes.optimizer_place)
    yield Part("Adam's moments", 2 * share, sizes.optimizer_place)


def _zero_buffers(section: LearnerSection, sizes: _Sizes, shape: ModelShape, on_gpu: bool) -> Iterator[Part]:
    if section.zero_stage == 0:
        return
    count = 2 if on_gpu and section.zero_stage < 3 else 1
    is_late = section.zero_stage == 1 or FLOAT * sizes.trained <= COALESCED_BYTES and section.zero_stage == 2
    yield Part(BUCKETS, count * BUCKET_ELEMENTS * sizes.weight, phase="step" if is_late else "always")
    yield from _gathered(section, sizes, shape)


def _gathered(section: LearnerSection, sizes: _Sizes, shape: ModelShape) -> Iterator[Part]:
    """Parameters that ZeRO-3 has whole on a rank."""
    if section.zero_stage < 3:
        return
    small = shape.small_parameters(PERSISTENT_ELEMENTS)
    yield Part("small parameters kept whole", small * sizes.weight)
    yield Part("gathered", (min(LIVE_ELEMENTS, shape.num_parameters) - small) * sizes.weight, phase="passes")
    # They come in one buffer, out of which they are copied.
    yield Part("gathered ahead", min(PREFETCH_ELEMENTS, shape.num_parameters) * sizes.weight, phase="forward")


def _activation_parts(kept: Activations, compute: Compute, sizes: _Sizes) -> Iterator[Part]:
    yield Part("activations kept", kept.layers, phase="passes")
    yield Part("logits or one layer's forward pass", kept.forward, phase="forward")
    yield Part("logits or one layer's gradients", kept.backward, phase="backward")
    if compute.kind == "autocast":
        yield Part("bfloat16 copies of the weights", HALF * (sizes.trained + sizes.frozen), phase="passes")


def _other_models(config: RunConfig, sizes: _Sizes, shape: ModelShape) -> Iterator[Part]:
    """Reference, average and critic; under ZeRO-3 a frozen one stays gathered as the policy does."""
    section, whole = config.learner, shape.num_parameters
    kl = needs_reference(section.kl)
    is_average = section.kl.reference == "average"
    live = min(LIVE_ELEMENTS, whole) if section.zero_stage == 3 else 0
    if config.voting.labels.name == "average" or (kl and is_average):
        yield Part("moving average", FLOAT * whole * sizes.share)
        yield Part("gathered average", FLOAT * live if kl and is_average else 0, phase="passes")
    if kl and not is_average and not (section.lora.rank and section.kl.reference == "base"):
        yield Part("reference model", sizes.weight * whole * sizes.share)
        yield Part("gathered reference", sizes.weight * live, phase="passes")
    if section.algorithm.name == "ppo":
        yield from _critic(section, sizes, shape)


def _critic(section: LearnerSection, sizes: _Sizes, shape: ModelShape) -> Iterator[Part]:
    """A model of its own with gradients and optimizer, all of it trained; its activations come after the policy's."""
    own = replace(sizes, trained=shape.num_parameters, frozen=0)
    for part in (*_weights(own), *_gradients(section, own), *_optimizer(section, own), *_gathered(section, own, shape)):
        yield replace(part, name=f"critic: {part.name}")


def _snapshot(config: RunConfig, shape: ModelShape) -> Iterator[Part]:
    """Published weights in host memory, in the samplers' type; two versions while one is being sent."""
    width = FLOAT if config.rollout.dtype == "float32" else HALF
    whole = width * shape.num_parameters
    ranks = config.learner.num_ranks
    yield Part("snapshots of the weights", 2 * whole / ranks, "host")
    if ranks > 1:
        yield Part("transfer buckets of other ranks", NUM_STAGING * config.sync.bucket_mib * 2**20, "host")
