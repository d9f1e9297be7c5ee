"""Random models of a few thousand parameters with a character-like tokenizer, and their weights ready to be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quorum.types import TensorMeta, WeightManifest

VOCABULARY = 64
BUCKET_BYTES = 60_000


def save_models(root: Path, *, is_tied: bool) -> tuple[Path, Path]:
    """A random model and the same one with every weight moved by 0.02; character-like tokenizer."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {"<pad>": 0, "<eos>": 1} | {chr(63 + i): i for i in range(2, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=320,
        tie_word_embeddings=is_tied,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    for name in ("base", "perturbed"):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return root / "base", root / "perturbed"


def load_weights(path: Path) -> list[tuple[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


def manifest_of(weights: list[tuple[str, Any]], version: int) -> WeightManifest:
    """Buckets of about BUCKET_BYTES, so that layers are split over buckets."""
    buckets: list[tuple[TensorMeta, ...]] = [()]
    size = 0
    for name, tensor in weights:
        if buckets[-1] and size + tensor.nbytes > BUCKET_BYTES:
            buckets.append(())
            size = 0
        buckets[-1] += (TensorMeta(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)),)
        size += tensor.nbytes
    return WeightManifest(version=version, incarnation=0, buckets=tuple(buckets))
