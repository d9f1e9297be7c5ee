"""Models of known shapes by name, built from their configuration with random weights: nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import save_tokenizer
from quorum.errors import ConfigError

END_TOKEN = 1
"""Of the tokenizer; a random model draws it once in its vocabulary's size: completions run to their limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a decoder with grouped-query attention and gated MLPs."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    is_tied: bool = False
    """Whether the output layer is the embedding."""
    positions: int = 32768
    rope_theta: float = 1e6
    family: str = "qwen2"
    """qwen2, qwen3 or llama: the architecture in transformers and vLLM."""

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

    @property
    def vector_parameters(self) -> int:
        """Norms, and the biases and query and key norms that a family has."""
        kv = self.key_heads * self.head_dim
        extra = {"qwen2": self.hidden + 2 * kv, "qwen3": 2 * self.head_dim, "llama": 0}[self.family]
        return self.layers * (2 * self.hidden + extra) + self.hidden

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied output layer counts once."""
        return self.body_parameters + self.vector_parameters + (2 - self.is_tied) * self.head_parameters


def _qwen2(hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, **more: Any) -> Shape:
    sizes = {"hidden": hidden, "intermediate": intermediate, "layers": layers, "heads": heads, "key_heads": key_heads}
    return Shape(**sizes, **{"vocabulary": 152064, **more})


SHAPES = {
    "tiny": _qwen2(64, 192, 2, 2, 1, vocabulary=64, is_tied=True),
    "qwen2.5-0.5b": _qwen2(896, 4864, 24, 14, 2, vocabulary=151936, is_tied=True),
    "qwen2.5-1.5b": _qwen2(1536, 8960, 28, 12, 2, vocabulary=151936, is_tied=True),
    "qwen2.5-3b": _qwen2(2048, 11008, 36, 16, 2, vocabulary=151936, is_tied=True),
    "qwen2.5-7b": _qwen2(3584, 18944, 28, 28, 4),
    "qwen2.5-14b": _qwen2(5120, 13824, 48, 40, 8),
    "qwen2.5-32b": _qwen2(5120, 27648, 64, 40, 8),
    "qwen2.5-72b": _qwen2(8192, 29568, 80, 64, 8),
    "llama-3.1-8b": Shape(
        family="llama",
        hidden=4096,
        intermediate=14336,
        layers=32,
        heads=32,
        key_heads=8,
        vocabulary=128256,
        positions=131072,
        rope_theta=5e5,
    ),
    "qwen3-14b": Shape(
        family="qwen3",
        hidden=5120,
        intermediate=17408,
        layers=40,
        heads=40,
        key_heads=8,
        vocabulary=151936,
        positions=40960,
    ),
}
"""From the published configurations; tiny is ours."""


def shape_of(name: str) -> Shape:
    """The shape of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SHAPES:
        raise ConfigError(f"no model shape {name!r}; there are: {', '.join(SHAPES)}")
    return SHAPES[name]


def transformers_config(shape: Shape) -> Any:
    """Its configuration object in transformers."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    made = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}[shape.family]
    return made(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.is_tied,
        bos_token_id=2,
        eos_token_id=END_TOKEN,
        pad_token_id=0,
    )


def save_shape(directory: Path, name: str) -> Path:
    """Save configuration and tokenizer of a shape without weights, for an engine that makes random ones itself."""
    config = transformers_config(shape_of(name))
    config.architectures = [_architecture(shape_of(name))]
    config.dtype = "bfloat16"
    config.save_pretrained(directory)
    save_tokenizer(directory, END_TOKEN)
    return directory


def make_shape(directory: Path, name: str, *, device: str, dtype: str, seed: int = 0) -> Path:
    """Save a random model of a shape with its weights, made on `device`; one that is there already is taken as it is.

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

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = empty_model(shape_of(name))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(directory)
    save_tokenizer(directory, END_TOKEN)
    (directory / "made").write_text(name)
    return directory


def empty_model(shape: Shape) -> Any:
    """The model in transformers, on torch's default device."""
    import transformers

    return getattr(transformers, _architecture(shape))(transformers_config(shape))


def _architecture(shape: Shape) -> str:
    return {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[shape.family]
