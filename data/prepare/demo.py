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
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.schema import DataSource
from data.prepare.tiny_model import Stage, build_model, build_tokenizer, evaluate, train
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

ERRORS = (-10, -2, -1, 1, 2, 10)
"""What a wrong total is off by."""
NUM_TERMS = TASK_OPTIONS["max_terms"]
MAX_TERM = 10 ** TASK_OPTIONS["max_digits"]
"""Largest number in a prompt: reasoning-gym draws one-digit terms from [0, 10]."""
SKEWED_SHARE = 0.5
"""Part of the traces whose terms are drawn as the larger, or as the smaller, of two."""


STAGES = (
    Stage(num_steps=1500, learning_rate=2e-3, noise=0.1, clean_share=0.5),
    Stage(num_steps=400, learning_rate=1e-3, noise=0.085),
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
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    def draw(rng: random.Random, noise: float) -> tuple[str, str]:
        terms = sample_terms(rng, held_out)
        return render_prompt(terms), noisy_trace(terms, rng, noise)

    rng = random.Random(args.seed)
    for stage in STAGES:
        train(model, tokenizer, draw, stage, rng, args.batch_size)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    if args.eval_prompts:
        average, majority = evaluate(model.float(), tokenizer, held_out_rows[: args.eval_prompts], 16)
        print(f"avg@16 {average:.4f} maj@16 {majority:.4f} on {min(args.eval_prompts, len(held_out_rows))} prompts")


if __name__ == "__main__":
    main()
