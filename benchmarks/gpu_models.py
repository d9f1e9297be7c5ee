"""How many operations training a model of a shape takes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.shapes import Shape


def training_operations(
    shape: Shape, lengths: Sequence[int], scored_tokens: int, *, adapter_parameters: int | None = None
) -> float:
    """Floating-point operations of one update's forward and backward passes, each multiplication and addition counted.

    6 N T + attention: every parameter of a matrix product costs a token 2 operations forward, 2 for the gradient of
    its input and 2 for its own gradient. The output layer costs them at the scored tokens alone, because logits are
    computed nowhere else. Causal attention over T tokens takes 2 layers hidden T^2 forward (scores and weighted sum, 2
    operations each, half of the square) and twice that backward. Recomputed activations and the optimizer's own
    operations are not counted: its time is.

    With adapters the weights below them get no gradient of their own: 4 N T, plus 6 of the adapters' parameters.

    Args:
        shape: of the model.
        lengths: tokens of each sequence.
        scored_tokens: completion tokens, whose logits are computed.
        adapter_parameters: of LoRA adapters in the layers; None trains all weights.
    """
    tokens = sum(lengths)
    per_weight = 6 if adapter_parameters is None else 4
    body = per_weight * shape.body_parameters * tokens
    head = per_weight * shape.head_parameters * scored_tokens
    attention = 6 * shape.layers * shape.hidden * sum(length**2 for length in lengths)
    return float(body + head + attention + 6 * (adapter_parameters or 0) * tokens)


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of LoRA adapters of a rank on every linear layer but the output layer."""
    hidden, kv, wide = shape.hidden, shape.key_heads * shape.head_dim, shape.intermediate
    ends = (
        (hidden, hidden),
        (hidden, kv),
        (hidden, kv),
        (hidden, hidden),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    )
    return shape.layers * rank * sum(inputs + outputs for inputs, outputs in ends)
