"""Make a miniature: a base model of half a million parameters that does one small task unreliably, and its prompts.

    python -m data.prepare.miniatures TASK OUT_DIR [--level 0] [--seed 0]

Writes `base/` (model and tokenizer), `train.jsonl` and `test.jsonl` (columns id, prompt), and the answers apart in
`train.references.jsonl` and `test.references.jsonl` (columns id, answer). No prompt of the test set is in the training
prompts or in the traces that the model learned from. The same arguments give the same files; the model's bits also
depend on the number of threads. The presets `mini_TASK` train on what this makes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from data.prepare.miniature_tasks import TASKS, Digits, Task, is_held_out
from data.prepare.tiny_model import DrawTrace, Stage, build_model, build_tokenizer, evaluate, train
from quorum.errors import DataError

NUM_LAYERS = 2
NUM_STEPS = 600
CLEAN_SHARE = 0.6
LEARNING_RATE = 2e-3
WARMUP_STEPS = 50
MAX_FRUITLESS_DRAWS = 1000
"""Draws in a row without a new prompt after which a task counts as used up."""
TRAIN_SEED_OFFSET, TEST_SEED_OFFSET = 1_000_000, 2_000_000
"""Added to the seed: prompts are drawn apart from traces."""


def draw_problem(task: Task, level: int, rng: random.Random, *, held_out: bool) -> tuple[Digits, str]:
    """A problem and its prompt, from the test set or from everything else."""
    while True:
        digits = task.draw(rng, task.lengths[level])
        prompt = task.render(digits)
        if is_held_out(prompt) == held_out:
            return digits, prompt


def trace_drawer(task: Task, level: int) -> DrawTrace:
    """What the base model learns from: traces about prompts that are not held out."""

    def draw(rng: random.Random, noise: float) -> tuple[str, str]:
        digits, prompt = draw_problem(task, level, rng, held_out=False)
        return prompt, task.trace(digits, rng, noise)

    return draw


def distinct_problems(task: Task, level: int, size: int, seed: int, *, held_out: bool) -> list[tuple[str, str]]:
    """`size` different prompts with their answers, in the order in which they were drawn.

    Raises:
        DataError: the task has not so many.
    """
    rng = random.Random(seed)
    answers: dict[str, str] = {}
    num_fruitless = 0
    while len(answers) < size:
        digits, prompt = draw_problem(task, level, rng, held_out=held_out)
        num_fruitless = num_fruitless + 1 if prompt in answers else 0
        if num_fruitless > MAX_FRUITLESS_DRAWS:
            kind = "held-out" if held_out else "training"
            raise DataError(
                f"{size} {kind} prompts wanted, this level has about {len(answers)}; ask for fewer or a higher level"
            )
        answers[prompt] = task.answer(digits)
    return list(answers.items())


def write_problems(out: Path, name: str, problems: Sequence[tuple[str, str]]) -> None:
    """`NAME.jsonl` with ids and prompts, `NAME.references.jsonl` with ids and answers."""
    out.mkdir(parents=True, exist_ok=True)
    ids = [hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest() for prompt, _ in problems]
    prompts = [{"id": key, "prompt": prompt} for key, (prompt, _) in zip(ids, problems, strict=True)]
    references = [{"id": key, "answer": answer} for key, (_, answer) in zip(ids, problems, strict=True)]
    for file, rows in ((f"{name}.jsonl", prompts), (f"{name}.references.jsonl", references)):
        (out / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_base(task: Task, args: argparse.Namespace) -> None:
    """Train the base model and save it; the first steps on right traces, the others on noisy ones."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, NUM_LAYERS)
    stage = Stage(
        num_steps=args.steps,
        learning_rate=LEARNING_RATE,
        noise=task.noise[args.level],
        clean_share=CLEAN_SHARE,
        warmup_steps=WARMUP_STEPS,
    )
    train(model, tokenizer, trace_drawer(task, args.level), stage, random.Random(args.seed), args.batch_size)
    model.to(torch.bfloat16).save_pretrained(args.out / "base")
    tokenizer.save_pretrained(args.out / "base")
    if args.eval_prompts:
        problems = distinct_problems(task, args.level, args.eval_prompts, args.seed + TEST_SEED_OFFSET, held_out=True)
        rows = [{"question": prompt, "answer": answer} for prompt, answer in problems]
        average, majority = evaluate(model.float(), tokenizer, rows, 16)
        print(f"avg@16 {average:.4f} maj@16 {majority:.4f} on {args.eval_prompts} held-out prompts")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    tasks = "\n".join(f"  {name:9} {task.summary}" for name, task in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare.miniatures",
        description=f"Make a miniature's base model and prompts.\n\ntasks:\n{tasks}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("out", type=Path, help="directory to write to")
    parser.add_argument("--level", type=int, default=0, help="difficulty: how long the rows are")
    parser.add_argument("--seed", type=int, default=0, help="seeds weights, traces and prompts")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of supervised learning; 0 makes prompts alone")
    parser.add_argument("--batch-size", type=int, default=64, help="traces per step")
    parser.add_argument("--train-prompts", type=int, default=2048)
    parser.add_argument("--test-prompts", type=int, default=256)
    parser.add_argument("--eval-prompts", type=int, default=100, help="held-out prompts to measure on; 0 for none")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; bits depend on it")
    args = parser.parse_args(argv)
    num_levels = len(TASKS[args.task].lengths)
    if not 0 <= args.level < num_levels:
        parser.error(f"--level {args.level}: {args.task} has levels 0 to {num_levels - 1}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    task = TASKS[args.task]
    sets = (("train", args.train_prompts, TRAIN_SEED_OFFSET), ("test", args.test_prompts, TEST_SEED_OFFSET))
    for name, size, offset in sets:
        problems = distinct_problems(task, args.level, size, args.seed + offset, held_out=name == "test")
        write_problems(args.out, name, problems)
    if args.steps:
        make_base(task, args)


if __name__ == "__main__":
    main()
