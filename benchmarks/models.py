"""Small models and prompts made on the spot for benchmarks: random weights, real shapes."""

from __future__ import annotations

import json
import random
from pathlib import Path

VOCABULARY = 64
MEAN_TOKENS = 77
"""Wanted mean completion length of the benchmark model, cut at 192."""


def make_random_model(directory: Path, *, hidden: int = 256, layers: int = 4, seed: int = 0) -> Path:
    """Save a random Qwen2-shaped model (3.2 M parameters by default) with a character tokenizer.

    Its end-of-text token is the one whose probability makes completions about MEAN_TOKENS long: a random
    model prefers some tokens by itself, so nothing has to be trained.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    model.config.eos_token_id = _end_token(model)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.to(torch.bfloat16).save_pretrained(directory)
    _save_tokenizer(directory, model.config.eos_token_id)
    return directory


def _end_token(model: object) -> int:
    """The token sampled with a probability nearest to 1 / (mean length without the cut)."""
    import torch

    ids = torch.randint(3, VOCABULARY, (64, 8))
    with torch.no_grad():
        for _ in range(96):
            logits = model(input_ids=ids).logits[:, -1].float()  # type: ignore[operator]
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        shares = model(input_ids=ids).logits.float().softmax(-1)[:, 8:].mean((0, 1))  # type: ignore[operator]
    wanted = 0.0115  # (1 - (1 - p)^192) / p = 77
    shares[:3] = 1.0
    return int((shares - wanted).abs().argmin())


def _save_tokenizer(directory: Path, eos: int) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = "0123456789+-*=;? ()abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    vocabulary = {"<pad>": 0, "<unused>": 1, "<bos>": 2}
    for token in range(3, VOCABULARY):
        vocabulary["<eos>" if token == eos else characters[token - 3]] = token
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    fast.save_pretrained(directory)


def write_prompts(path: Path, *, num_prompts: int, seed: int = 0) -> Path:
    """Sums as prompts in JSONL, without answers."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(num_prompts):
            prompt = "+".join(str(rng.randint(10, 99)) for _ in range(4)) + "="
            file.write(json.dumps({"prompt": prompt}) + "\n")
    return path
