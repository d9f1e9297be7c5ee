"""A model's sizes from its config.json: parameters counted on the meta device, no weights read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.learner_sections import LoraSection
from configs.schema import ModelSection
from data.model_files import require_hub
from quorum.errors import DataError

KEEPING = ("full_attention", "sliding_attention", "chunked_attention")
"""transformers' kinds of layers that keep keys and values; linear attention and the like keep a state of fixed size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What memory and arithmetic follow from."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    """(name, shape) of every parameter, tied ones once."""
    linears: tuple[tuple[str, int, int], ...]
    """(name, inputs, outputs) of the linear layers but the output layer: those that adapters go on."""
    kv_layers: int
    """Layers that keep keys and values. Those that attend within a window count whole: up to the window they keep every
    token."""

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.parameters)

    @property
    def query_size(self) -> int:
        """Elements of one token's queries."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys; of its values as many."""
        return self.kv_heads * self.head_dim

    @property
    def num_input_embedding(self) -> int:
        """Parameters that are only looked up: those of an input embedding with an output layer of its own."""
        is_tied = not any(name.endswith("lm_head.weight") for name, _ in self.parameters)
        return 0 if is_tied else self.vocabulary * self.hidden

    def small_parameters(self, below: int) -> int:
        """Elements in parameters of fewer than `below`."""
        return sum(count for _, shape in self.parameters if (count := math.prod(shape)) < below)

    def adapter_parameters(self, lora: LoraSection) -> int:
        """Elements of the adapters that `lora` puts on the linear layers."""
        wanted = set(lora.target_modules)
        chosen = [one for one in self.linears if not wanted or one[0].rpartition(".")[2] in wanted]
        return lora.rank * sum(inputs + outputs for _, inputs, outputs in chosen)


def read_shape(model: ModelSection) -> ModelShape:
    """Sizes of a model by its configuration; reads config.json and nothing else.

    Raises:
        DataError: no configuration there, or of a model that is no causal language model of transformers.
    """
    from transformers import AutoConfig

    try:
        require_hub(model)
        config = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        words = " ".join(str(error).split())
        raise DataError(
            f"{model.path}: no model configuration can be read: {words[:300]}; planning needs a directory "
            "with config.json, or a hub name and a network"
        ) from error
    return shape_of(config, model.path, trust_remote_code=model.trust_remote_code)


def make_shape(name: str, model_type: str, sizes: Mapping[str, Any]) -> ModelShape:
    """Sizes of a model that is nowhere: of a type of transformers, by the fields of its configuration."""
    from transformers import AutoConfig

    return shape_of(AutoConfig.for_model(model_type, **sizes), name)


def shape_of(config: Any, name: str, *, trust_remote_code: bool = False) -> ModelShape:
    """Build the model on the meta device and count.

    Raises:
        DataError: transformers makes no causal language model of it, or it states no sizes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, ImportError) as error:
        raise DataError(f"{name}: transformers builds no causal language model of it: {error}") from error
    text = config.get_text_config()
    heads, hidden = getattr(text, "num_attention_heads", None), getattr(text, "hidden_size", None)
    if not heads or not hidden:
        raise DataError(f"{name}: its configuration states no hidden_size or num_attention_heads; it cannot be planned")
    kinds = getattr(text, "layer_types", None) or ()
    head = model.get_output_embeddings()
    linears = [
        (name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    return ModelShape(
        name=name,
        hidden=hidden,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or hidden // heads,
        intermediate=getattr(text, "intermediate_size", None) or 4 * hidden,
        vocabulary=text.vocab_size,
        parameters=tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters()),
        linears=tuple(linears),
        kv_layers=sum(kind in KEEPING for kind in kinds) if kinds else text.num_hidden_layers,
    )
