"""What a micro-batch keeps for its backward pass, by the operations of a Llama-like layer as the learner runs them.

Counted per token are the tensors that autograd saves (arXiv 2205.05198 counts those of a GPT layer alike), with the
learner's own RMSNorm, rotary embedding and packed attention. Attention keeps no scores: it is a fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestration.planning.shape import ModelShape

FLOAT, HALF = 4, 2
"""Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How the forward pass computes."""

    kind: str
    """float32; bfloat16: weights and activations; autocast: float32 weights, matrix products in bfloat16."""
    on_gpu: bool
    checkpointing: bool
    """Whether layers are computed again in the backward pass."""
    max_logits: int
    """Logits held at once."""

    @property
    def half(self) -> bool:
        return self.kind != "float32"


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of one micro-batch on one rank."""

    layers: float
    """Kept for the backward pass."""
    forward: float
    """Beside it at the end of the forward pass: the logits, or with checkpointing what a layer lets go of again."""
    backward: float
    """Beside it while one layer's gradient is computed; with checkpointing that layer's own activations too."""


def layer_bytes(shape: ModelShape, compute: Compute) -> float:
    """Saved per token by one decoder layer.

    The residual stream is x, its norm y. float32: x and y at both norms; rotated queries, keys, values, the attention's
    output and log-sum-exp, that output again where the packed runs are joined (on a CPU); gate, its SiLU, up and their
    product. bfloat16 has the model's own norm, which keeps a float32 copy of x and its normalised value. Autocast keeps
    x in float32 and one bfloat16 copy of y per matrix product.
    """
    hidden, query, kv, inner = shape.hidden, shape.query_size, shape.kv_size, shape.intermediate
    size = HALF if compute.half else FLOAT
    outputs = 1 if compute.on_gpu else 2
    attention = size * ((1 + outputs) * query + 2 * kv) + FLOAT * shape.heads
    mlp = size * 4 * inner
    norms = {
        "float32": 2 * (2 * FLOAT * hidden),
        "bfloat16": 2 * (FLOAT + 2 * HALF) * hidden,
        "autocast": 2 * FLOAT * hidden + (3 + 2) * HALF * hidden,
    }[compute.kind]
    return norms + attention + mlp


def activations(
    shape: ModelShape, compute: Compute, num_tokens: int, num_completion_tokens: int, num_repeated_tokens: int = 0
) -> Activations:
    """Of one micro-batch.

    Args:
        shape: of the model.
        compute: how.
        num_tokens: of the micro-batch on this rank.
        num_completion_tokens: of them, those whose logits are computed.
        num_repeated_tokens: those whose keys and values are copied beside, of prompts that completions share.
    """
    size = HALF if compute.kind == "bfloat16" else FLOAT
    copies = 2 * (HALF if compute.half else FLOAT) * shape.kv_size * num_repeated_tokens
    per_layer = layer_bytes(shape, compute) * num_tokens + copies
    ends = (3 * size * shape.hidden) * num_tokens + size * shape.hidden * num_completion_tokens
    inner = HALF if compute.half else FLOAT
    mlp = (2 * inner * shape.intermediate + size * shape.hidden) * num_tokens
    gradients = max(mlp, 2 * inner * (shape.query_size + shape.kv_size) * num_tokens + copies)
    kept, forward, backward = shape.layers * per_layer, 0.0, gradients
    if compute.checkpointing:
        kept, forward = shape.layers * size * shape.hidden * num_tokens, gradients
        backward += per_layer
    chunk = max(1, compute.max_logits // shape.vocabulary)
    num_chunks = -(-num_completion_tokens // chunk)
    width = FLOAT * shape.vocabulary * -(-num_completion_tokens // max(1, num_chunks))
    # Logits, their log-softmax and its exponential at once, and in half precision the logits as they were.
    logits = 3 * width + (width / 2 if compute.half else 0)
    # Logits are let go of before the gradient reaches the layers; in chunks they are computed again there.
    return Activations(layers=kept + ends, forward=max(forward, logits), backward=max(backward, logits))
