"""Very small language models, made in minutes: tokenizer, architecture, supervised learning on traces, accuracy.

What the traces say is the caller's business: `data.prepare.demo` adds numbers, `data.prepare.miniatures` has a family
of tasks. One character tokenizer serves all of them. Heavy libraries are imported when used.
"""

from __future__ import annotations

import math
import random
import string
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
WORDS = ("Calculate ", " + ", ", ", "\\boxed{")
IGNORE = -100

DrawTrace = Callable[[random.Random, float], tuple[str, str]]
"""(random numbers, noise) -> a prompt and one attempt at it, whose steps are wrong with probability noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One round of training, with its own optimizer and cosine decay."""

    num_steps: int
    learning_rate: float
    """At the end of the warm-up."""
    noise: float
    """Probability that a step of a trace is wrong."""
    clean_share: float = 0.0
    """Share of the steps before noise sets in."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""


def build_tokenizer() -> Any:
    """Character-level tokenizer over printable ASCII, with four frequent words as one token each.

    Returns:
        A `PreTrainedTokenizerFast` with `<pad>`, `<eos>`, `<unk>` and no chat template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [c for c in string.printable if c.isprintable() or c == "\n"]
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *WORDS, *characters))}
    pattern = r"Calculate | \+ |, |\\boxed\{|[\s\S]"
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: Any, num_layers: int = 3) -> Any:
    """A Llama with tied embeddings, freshly initialised: 0.75 M parameters with three layers, 0.5 M with two.

    Not a Qwen2: for that name transformers 5 loads Qwen's own tokenizer in place of the one saved beside it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            rms_norm_eps=1e-6,
            attention_bias=True,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def sample_batch(tokenizer: Any, draw: DrawTrace, rng: random.Random, size: int, noise: float) -> Any:
    """Returns (input_ids, attention_mask, labels), each [size, T]; labels cover the trace and the end of text."""
    import torch

    sequences = []
    for _ in range(size):
        prompt, trace = draw(rng, noise)
        prompt_ids = tokenizer(prompt)["input_ids"]
        trace_ids = [*tokenizer(trace)["input_ids"], tokenizer.eos_token_id]
        sequences.append((prompt_ids + trace_ids, [IGNORE] * len(prompt_ids) + trace_ids))
    length = max(len(ids) for ids, _ in sequences)
    input_ids = torch.full((size, length), tokenizer.pad_token_id)
    labels = torch.full((size, length), IGNORE)
    mask = torch.zeros((size, length), dtype=torch.long)
    for row, (ids, targets) in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(targets)
        mask[row, : len(ids)] = 1
    return input_ids, mask, labels


def train(model: Any, tokenizer: Any, draw: DrawTrace, stage: Stage, rng: random.Random, size: int) -> None:
    """One stage of AdamW with warm-up and cosine decay on `size` freshly drawn traces per step."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    started = time.monotonic()
    for step in range(stage.num_steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / stage.num_steps))
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * min(1.0, (step + 1) / stage.warmup_steps) * decay
        noise = 0.0 if step < stage.clean_share * stage.num_steps else stage.noise
        input_ids, mask, labels = sample_batch(tokenizer, draw, rng, size, noise)
        loss = model(input_ids=input_ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == stage.num_steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)


def evaluate(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], num_completions: int) -> tuple[float, float]:
    """Accuracy of single completions and of their majority, at temperature 1.

    Returns:
        (avg@n, maj@n), shares in [0, 1].
    """
    import torch

    num_right, num_majority_right = 0, 0
    model.eval()
    for row in rows:
        prompt = torch.tensor([tokenizer(row["question"])["input_ids"]] * num_completions)
        with torch.no_grad():
            output = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, max_new_tokens=24
            )
        texts = tokenizer.batch_decode(output[:, prompt.shape[1] :], skip_special_tokens=True)
        votes = Counter(text.partition("\\boxed{")[2].partition("}")[0] for text in texts)
        num_right += votes[row["answer"]]
        num_majority_right += votes.most_common(1)[0][0] == row["answer"]
    return num_right / (len(rows) * num_completions), num_majority_right / len(rows)
