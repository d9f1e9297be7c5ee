"""TRL's side of `quorum bench pipeline --against trl`: its GRPOTrainer in its own training loop, a step per order.

Started as `python -m benchmarks.trl_side`. The first order describes the work; every further one asks for a step.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.orders import open_channel
from voting.extractors.last_number import extract_last_number

HOPELESS = 3.0
"""Settings whose first step takes so many times the fastest first step are given no further one."""
WARM_STEPS = 3
"""Of a try, after the first; the fastest counts."""
TRY_SECONDS = 120.0
"""After which a try ends with the warm steps that it has, one at least."""


@dataclass(frozen=True, slots=True)
class TrlWork:
    """What TRL is to do in every step; the same as the other side."""

    model: str
    data: str
    """JSONL of prompts, taken in order."""
    prompts: int
    """Per step."""
    k: int
    max_tokens: int
    learning_rate: float
    threads: int
    device: str
    """"cpu" or "cuda"."""


def main() -> None:
    """Serve orders until stdin closes: a start with the work and candidates, then {"do": "step"}."""
    answer = open_channel()
    import torch

    start = json.loads(sys.stdin.readline())
    work = TrlWork(**start["work"])
    torch.set_num_threads(work.threads)
    tried = try_all(work, start["candidates"])
    able = {name: seconds for name, seconds in tried.items() if isinstance(seconds, float)}
    if not able:
        raise SystemExit(f"TRL runs with none of its settings: {tried}")
    best = min(able, key=able.__getitem__)
    steps = Steps()
    trainer = make_trainer(work, start["candidates"][best], steps, max_steps=10**6)
    trainer.add_callback(make_stepper((json.loads(line) for line in sys.stdin), answer, steps))
    answer({"best": best, "tried": tried})
    trainer.train()


class Steps:
    """What the trainer drew in the step at hand; `rewards` is its reward function."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.reward_sum, self.num_tokens, self.num_completions = 0.0, 0, 0

    def rewards(
        self, prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float]:
        """Agreement with each prompt's majority."""
        found = majority_rewards(prompts, completions)
        self.reward_sum += sum(found)
        self.num_tokens += sum(map(len, completion_ids))
        self.num_completions += len(completions)
        return found

    def fields(self) -> dict[str, float]:
        count = max(1, self.num_completions)
        return {
            "completions": self.num_completions,
            "tokens": self.num_tokens,
            "reward_mean": self.reward_sum / count,
        }


def majority_rewards(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """1 for every completion whose last number is its prompt's most frequent one, else 0: the reward of the preset
    `bench`, in a few lines, so that TRL's side pays for no voting service. Among equals the first wins.

    Args:
        prompts: of every completion; equal ones make a group.
        completions: texts.
    """
    answers = [extract_last_number(text) for text in completions]
    counts: dict[str, Counter[str]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        counts.setdefault(prompt, Counter()).update([answer] if answer is not None else [])
    labels = {prompt: count.most_common(1)[0][0] for prompt, count in counts.items() if count}
    return [float(a is not None and a == labels.get(p)) for p, a in zip(prompts, answers, strict=True)]


def try_all(work: TrlWork, candidates: Mapping[str, Mapping[str, Any]]) -> dict[str, float | str]:
    """By name of settings: seconds of the fastest warm step, or why there is none."""
    tried: dict[str, float | str] = {}
    fastest_first = math.inf
    for name, settings in candidates.items():
        found = try_out(work, settings, HOPELESS * fastest_first)
        if isinstance(found, str):
            tried[name] = found
        elif len(found) == 1:
            tried[name] = f"hopeless: its first step took {found[0]:.1f} s, another's {fastest_first:.1f} s"
        else:
            tried[name] = min(found[1:])
            fastest_first = min(fastest_first, found[0])
    return tried


def try_out(work: TrlWork, settings: Mapping[str, Any], limit: float = math.inf) -> list[float] | str:
    """Seconds of one trainer's steps with these settings, the first of which is cold; see `is_enough`. Why not, where
    TRL cannot run with them."""
    seconds: list[float] = []
    steps = Steps()
    try:
        trainer = make_trainer(work, settings, steps, max_steps=1 + WARM_STEPS)
        stepper = make_stepper(
            repeat({}), lambda fields: seconds.append(fields["seconds"]), steps, lambda: is_enough(seconds, limit)
        )
        trainer.add_callback(stepper)
        trainer.train()
    except Exception as exc:  # noqa: BLE001 - a setting that does not run here is an answer too
        return f"{type(exc).__name__}: {exc}"[:200]
    return seconds


def is_enough(seconds: Sequence[float], limit: float) -> bool:
    """Whether a try ends after these steps: the first took more than `limit` seconds, or all are there, or it takes too
    long."""
    if len(seconds) == 1:
        return seconds[0] > limit
    return len(seconds) > WARM_STEPS or sum(seconds) > TRY_SECONDS


def make_trainer(work: TrlWork, settings: Mapping[str, Any], steps: Steps, *, max_steps: int) -> Any:
    """GRPOTrainer with the same objective as the other side: token mean, ratio 1, no KL, AdamW, float32 weights.

    Args:
        work: of every step.
        settings: `rows`, its micro-batch; everything else is handed to GRPOConfig.
        steps: is told what it draws.
        max_steps: at which it ends.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    rows = [json.loads(line)["prompt"] for line in Path(work.data).read_text(encoding="utf-8").splitlines()]
    num_rows = work.prompts * work.k
    given = dict(settings)
    micro_batch = min(given.pop("rows"), num_rows)
    config = GRPOConfig(
        output_dir=str(Path(work.data).parent / "trl"),
        use_cpu=work.device == "cpu",
        bf16=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=num_rows // micro_batch,
        steps_per_generation=num_rows // micro_batch,
        num_generations=work.k,
        max_completion_length=work.max_tokens,
        temperature=1.0,
        max_steps=max_steps,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_strategy="no",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
        **given,
    )
    return GRPOTrainer(
        model=work.model,
        reward_funcs=steps.rewards,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in rows]),
        processing_class=AutoTokenizer.from_pretrained(work.model),
    )


def make_stepper(
    orders: Iterator[Mapping[str, Any]],
    answer: Callable[[dict[str, Any]], None],
    steps: Steps,
    is_over: Callable[[], bool] = lambda: False,
) -> Any:
    """Trainer callback: a step per order, timed from the order to the optimizer's end, generation and rewards in it.

    Args:
        orders: the process ends after the last.
        answer: is told of every step.
        steps: what the trainer drew.
        is_over: asked after every step: whether the training ends, and the process goes on.
    """
    from transformers import TrainerCallback

    class Stepper(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if next(orders, None) is None:
                sys.exit(0)
            steps.clear()
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            answer({"seconds": time.perf_counter() - self.began, **steps.fields()})
            control.should_training_stop = control.should_training_stop or is_over()

    return Stepper()


if __name__ == "__main__":
    main()
