"""Make the demo's base model: 0.75 M parameters that add five numbers well, but unreliably.

    python -m data.prepare.demo OUT_DIR [--seed 0]

A Llama-shaped model with its own tokenizer learns running totals (`Calculate 4 + 7 + 9 + 2 + 10.` ->
`11, 20, 22, \\boxed{32}`) by supervised learning: first on right traces, then on traces in which each total is
wrong with some probability. The errors are symmetric, so the model samples the right answer about two times in
three while the majority of 16 is nearly always right: what self-training can sharpen, and no more than that.
Held-out prompts of the demo never occur in the training traces.
"""

from __future__ import annotations

import argparse
import math
import random
import string
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import DataSource
from data.reasoning_gym_source import generate_rows

TASK_OPTIONS: dict[str, Any] = {
    "min_terms": 5,
    "max_terms": 5,
    "min_digits": 1,
    "max_digits": 1,
    "operators": ["+"],
    "allow_parentheses": False,
    "allow_negation": False,
}
"""Parameters of reasoning-gym's `basic_arithmetic` in the demo."""
TRAIN_SOURCE = DataSource(path="reasoning_gym:basic_arithmetic", task_options=TASK_OPTIONS, size=2048, seed=710_000)
"""Prompts that the demo trains on, without their answers. With this seed none of them is held out."""
HELD_OUT_SOURCE = DataSource(path="reasoning_gym:basic_arithmetic", task_options=TASK_OPTIONS, size=400, seed=1_000_000)
"""Prompts that the demo is evaluated on."""

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
WORDS = ("Calculate ", " + ", ", ", "\\boxed{")
ERRORS = (-10, -2, -1, 1, 2, 10)
"""What a wrong total is off by."""
NUM_TERMS = TASK_OPTIONS["max_terms"]
MAX_TERM = 10 ** TASK_OPTIONS["max_digits"]
"""Largest number in a prompt: reasoning-gym draws one-digit terms from [0, 10]."""
SKEWED_SHARE = 0.5
"""Part of the traces whose terms are drawn as the larger, or as the smaller, of two."""
IGNORE = -100
WARMUP_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One round of training, with its own optimizer and cosine decay."""

    num_steps: int
    learning_rate: float
    """At the end of the warm-up."""
    noise: float
    """Probability that a total is wrong."""
    clean_share: float = 0.0
    """Share of the steps before noise sets in."""


STAGES = (
    Stage(num_steps=1500, learning_rate=2e-3, noise=0.1, clean_share=0.5),
    Stage(num_steps=400, learning_rate=1e-3, noise=0.085),
)


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


def build_model(vocab_size: int, pad_id: int, eos_id: int) -> Any:
    """A Llama of 0.75 M parameters with tied embeddings, freshly initialised.

    Not a Qwen2: for that name transformers 5 loads Qwen's own tokenizer in place of the one saved beside it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            rms_norm_eps=1e-6,
            attention_bias=True,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos_id,
            pad_token_id=pad_id,
        )
    )


def render_prompt(terms: Sequence[int]) -> str:
    """The prompt as reasoning-gym words it."""
    return f"Calculate {' + '.join(map(str, terms))}."


def noisy_trace(terms: Sequence[int], rng: random.Random, noise: float) -> str:
    """Running totals of `terms`, each wrong with probability `noise`, the last one in a box.

    A wrong total is carried on, so errors look like slips of the pen and not like another method.
    """
    total, totals = terms[0], []
    for term in terms[1:]:
        total += term
        if rng.random() < noise:
            total += rng.choice([error for error in ERRORS if total + error >= 0])
        totals.append(str(total))
    return ", ".join((*totals[:-1], f"\\boxed{{{totals[-1]}}}"))


def sample_terms(rng: random.Random, held_out: frozenset[str]) -> list[int]:
    """Numbers whose prompt is not held out; large and small totals more often than chance would have them.

    Totals near 0 and above 40 are rare among uniform terms. A model that hardly knows them answers them at random,
    and self-training then settles on one wrong answer for all of them.
    """
    while True:
        skew = rng.random()
        if skew < SKEWED_SHARE / 2:
            draws = 2, max
        elif skew < SKEWED_SHARE:
            draws = 2, min
        else:
            draws = 1, max
        terms = [draws[1](rng.randint(0, MAX_TERM) for _ in range(draws[0])) for _ in range(NUM_TERMS)]
        if render_prompt(terms) not in held_out:
            return terms


def sample_batch(tokenizer: Any, rng: random.Random, size: int, noise: float, held_out: frozenset[str]) -> Any:
    """Returns (input_ids, attention_mask, labels), each [size, T]; labels cover the trace and the end of text."""
    import torch

    sequences = []
    for _ in range(size):
        terms = sample_terms(rng, held_out)
        prompt = tokenizer(render_prompt(terms))["input_ids"]
        trace = [*tokenizer(noisy_trace(terms, rng, noise))["input_ids"], tokenizer.eos_token_id]
        sequences.append((prompt + trace, [IGNORE] * len(prompt) + trace))
    length = max(len(ids) for ids, _ in sequences)
    input_ids = torch.full((size, length), tokenizer.pad_token_id)
    labels = torch.full((size, length), IGNORE)
    mask = torch.zeros((size, length), dtype=torch.long)
    for row, (ids, targets) in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(targets)
        mask[row, : len(ids)] = 1
    return input_ids, mask, labels


def train(model: Any, tokenizer: Any, stage: Stage, rng: random.Random, held_out: frozenset[str], size: int) -> None:
    """One stage of AdamW with warm-up and cosine decay on `size` freshly drawn traces per step."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    started = time.monotonic()
    for step in range(stage.num_steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / stage.num_steps))
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS) * decay
        noise = 0.0 if step < stage.clean_share * stage.num_steps else stage.noise
        input_ids, mask, labels = sample_batch(tokenizer, rng, size, noise, held_out)
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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.prepare.demo", description="Make the demo's base model.")
    parser.add_argument("out", type=Path, help="directory to write the model and its tokenizer to")
    parser.add_argument("--seed", type=int, default=0, help="seeds weights and traces")
    parser.add_argument("--batch-size", type=int, default=128, help="traces per step")
    parser.add_argument("--eval-prompts", type=int, default=100, help="held-out prompts to measure on; 0 for none")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; bits depend on it")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    held_out_rows = generate_rows(HELD_OUT_SOURCE)
    held_out = frozenset(row["question"] for row in held_out_rows)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    rng = random.Random(args.seed)
    for stage in STAGES:
        train(model, tokenizer, stage, rng, held_out, args.batch_size)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    if args.eval_prompts:
        average, majority = evaluate(model.float(), tokenizer, held_out_rows[: args.eval_prompts], 16)
        print(f"avg@16 {average:.4f} maj@16 {majority:.4f} on {min(args.eval_prompts, len(held_out_rows))} prompts")


if __name__ == "__main__":
    main()
