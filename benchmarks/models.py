"""Small models and prompts made on the spot for benchmarks: random weights, real shapes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

VOCABULARY = 64
CHARACTERS = "0123456789+=-*;? ()abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
FIRST_CHARACTER = 3
"""Token of the first of CHARACTERS, after the special ones."""
END_PROBABILITY = 0.0119
"""Mean probability of the end of text: gives completions of about 77 tokens when cut at 192. With the same probability
at every token 0.0115 would: (1 - (1 - p)^192) / p = 77."""
NUM_CORRECTIONS = 6


def make_random_model(directory: Path, *, hidden: int = 256, layers: int = 4, seed: int = 0) -> Path:
    """Save a random Qwen2-shaped model (3.2 M parameters by default) with a character tokenizer.

    Nothing is trained: the likeliest lengths follow from the probability of its end-of-text token, see END_PROBABILITY.
    """
    import torch

    model = _make(hidden, layers, seed)
    model.config.eos_token_id = _set_end_token(model)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.to(torch.bfloat16).save_pretrained(directory)
    save_tokenizer(directory, model.config.eos_token_id)
    return directory


def make_untrained_model(directory: Path, *, hidden: int, layers: int, seed: int = 0) -> Path:
    """Save the same shape in float32 without a likely end of text: for benchmarks that are given their tokens."""
    _make(hidden, layers, seed).save_pretrained(directory)
    save_tokenizer(directory, 1)
    return directory


def _make(hidden: int, layers: int, seed: int) -> Any:
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
    return Qwen2ForCausalLM(config)


def _set_end_token(model: Any) -> int:
    """Choose an end-of-text token and make it as likely as the wanted mean length needs. Returns the token.

    Its embedding, which is its output weight too, is moved along the mean hidden state until its mean probability
    over sampled text is END_PROBABILITY.
    """
    import torch

    rng = random.Random(0)
    prompts = [sum_prompt(rng) for _ in range(64)]
    ids = torch.tensor([[FIRST_CHARACTER + CHARACTERS.index(c) for c in prompt] for prompt in prompts])
    start = ids.shape[1]
    with torch.no_grad():
        cache, fed = None, ids
        for _ in range(96):
            out = model(input_ids=fed, past_key_values=cache, use_cache=True)
            cache, fed = out.past_key_values, torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)
            ids = torch.cat([ids, fed], dim=1)
        hidden = model.model(input_ids=ids).last_hidden_state[:, start:].flatten(0, 1)
        mean = hidden.mean(0)
        rows = model.lm_head.weight
        shares = (hidden @ rows.T).softmax(-1).mean(0)
        shares[: ids[:, :start].max() + 1] = 1.0  # what prompts are made of cannot end a text
        token = int((shares - END_PROBABILITY).abs().argmin())
        for _ in range(NUM_CORRECTIONS):
            share = (hidden @ rows.T).softmax(-1).mean(0)[token]
            rows[token] += torch.log(END_PROBABILITY / share) * mean / (mean @ mean)
    return token


def save_tokenizer(directory: Path, eos: int) -> None:
    """Save a tokenizer of single characters whose end of text is the token `eos`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<unused>": 1, "<bos>": 2}
    for token in range(FIRST_CHARACTER, VOCABULARY):
        vocabulary["<eos>" if token == eos else CHARACTERS[token - FIRST_CHARACTER]] = token
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    fast.save_pretrained(directory)


def sum_prompt(rng: random.Random) -> str:
    """Four numbers of two digits to add: always 12 characters."""
    return "+".join(str(rng.randint(10, 99)) for _ in range(4)) + "="


def write_prompts(path: Path, *, num_prompts: int, seed: int = 0) -> Path:
    """Sums as prompts in JSONL, without answers."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(num_prompts):
            file.write(json.dumps({"prompt": sum_prompt(rng)}) + "\n")
    return path
