"""Models of known shapes with random weights for GPU measurements, and how many operations training them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import _save_tokenizer
from quorum.errors import ConfigError

END_TOKEN = 1
"""Of the tokenizer; a random model draws it once in its vocabulary's size."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2 architecture's dimensions."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    is_tied: bool

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def body_parameters(self) -> int:
        """Matrix parameters of all layers: what a token is multiplied with, embedding and output layer left out."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_heads * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Parameters of the output layer."""
        return self.hidden * self.vocabulary


_SHAPES = {
    "tiny": Shape(64, 192, 2, 2, 1, 64, True),
    "0.5b": Shape(896, 4864, 24, 14, 2, 151936, True),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151936, True),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064, False),
}
"""Of Qwen2.5, from its published configurations; tiny is ours."""


def qwen2_shape(name: str) -> Shape:
    """The shape of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _SHAPES:
        raise ConfigError(f"no model shape {name!r}; there are: {', '.join(_SHAPES)}")
    return _SHAPES[name]


def make_model(directory: Path, name: str, *, device: str, dtype: str, seed: int = 0) -> Path:
    """Save a random model of a shape, made on `device`; one that is there already is taken as it is.

    Args:
        directory: where to.
        name: of the shape.
        device: "cpu" or "cuda"; 7 B parameters take minutes on a CPU.
        dtype: torch type of the weights, "bfloat16" say.
        seed: of the weights.
    """
    if (directory / "made").is_file():
        return directory
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = qwen2_shape(name)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=shape.is_tied,
        bos_token_id=2,
        eos_token_id=END_TOKEN,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(directory)
    _save_tokenizer(directory, END_TOKEN)
    (directory / "made").write_text(name)
    return directory


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
