"""The two sides of `quorum bench learn`, each the child of a run: our learner's rank, and TRL's GRPO trainer.

Started as `python -m benchmarks.learn_sides`. The first order names the side, then come orders to step.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learn_work import PROMPT_TOKENS, Work, leave_one_out
from benchmarks.orders import open_channel

LEARNING_RATE = 1e-6
CANDIDATE_ROWS = (8, 16, 32, 64)
"""TRL's micro-batches, tried before measuring; the fastest is taken."""


def main() -> None:
    """Serve orders until stdin closes: a start, then {"do": "step"}."""
    answer = open_channel()
    start = json.loads(sys.stdin.readline())
    work = Work(**start["work"])
    orders = (json.loads(line) for line in sys.stdin)
    if start["side"] == "ours":
        serve_ours(Path(start["model"]), work, start["threads"], orders, answer)
    else:
        serve_trl(Path(start["model"]), work, start["threads"], start["rows"], orders, answer)


def serve_ours(
    model: Path, work: Work, threads: int, orders: Iterator[dict[str, Any]], answer: Callable[[dict[str, Any]], None]
) -> None:
    """One rank of the learner as a run has it, called without Ray."""
    from configs.schema import RunConfig
    from learner.orders import plan_step
    from learner.rank import Rank, RankSettings

    settings = {
        "run": {"dir": "unused"},
        "model": {"path": str(model)},
        "data": {"train": [{"path": "unused.jsonl"}]},
        "cluster": {"cpus_per_rank": threads},
        "learner": {"precision": "float32", "learning_rate": LEARNING_RATE},
    }
    config = RunConfig.model_validate(settings)

    class MeasuredRank(Rank):
        def _report(self, phase: str) -> None:
            if phase == "loading":  # everything is imported, nothing of the model is there yet
                self.memory = Memory()
            super()._report(phase)

    rank = MeasuredRank(RankSettings(config, 0, 1, "cpu", True))
    rank.start(*rank.open_rendezvous())
    batch = work.batch()
    planned = plan_step(batch, config)
    assert planned is not None, "work without a trained completion"
    groups = dict(enumerate(batch.groups))
    answer({"rows": len(planned.orders[0].updates[0].micro_batches[0])})
    for _ in orders:
        began = time.perf_counter()
        sums = rank.step(planned.orders[0], groups)
        seconds = time.perf_counter() - began
        answer({"seconds": seconds, "grad_norm": sums.grad_norm, "peak_bytes": rank.memory.growth()})


def serve_trl(
    model: Path,
    work: Work,
    threads: int,
    rows: int | None,
    orders: Iterator[dict[str, Any]],
    answer: Callable[[dict[str, Any]], None],
) -> None:
    """TRL's GRPO trainer in its own training loop, handed the completions it would have generated.

    `rows` is its micro-batch; None tries a few first and takes the fastest.
    """
    import torch

    torch.set_num_threads(threads)
    rows = min(rows or fastest_rows(model, work), work.prompts * work.k)
    memory = Memory()
    trainer = make_trainer(model, work, rows, max_steps=10**6)
    trainer.add_callback(make_stepper(orders, answer, memory))
    answer({"rows": rows})
    trainer.train()


def fastest_rows(model: Path, work: Work) -> int:
    """The micro-batch with which TRL trains fastest, by one step each on a few of the groups after one to warm up."""
    few = Work(work.kind, max(1, 64 // work.k), work.k, work.seed)
    seconds = {}
    for rows in CANDIDATE_ROWS:
        if few.prompts * few.k % rows:
            continue
        times: list[float] = []
        trainer = make_trainer(model, few, rows, max_steps=2)
        trainer.add_callback(make_stepper(iter([{}, {}]), lambda fields, times=times: times.append(fields["seconds"])))
        trainer.train()
        seconds[rows] = times[-1]
    return min(seconds, key=seconds.__getitem__)


def make_trainer(model: Path, work: Work, rows: int, *, max_steps: int) -> Any:
    """GRPOTrainer whose generation is a look-up. Same objective as ours: token mean, ratio 1, no KL, AdamW."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    prepared = padded_batch(work)

    class Trainer(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            return {name: torch.from_numpy(array) for name, array in prepared.items()}

    num_rows = work.prompts * work.k
    config = GRPOConfig(
        output_dir="unused",
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=num_rows // rows,
        steps_per_generation=num_rows // rows,
        num_generations=work.k,
        max_steps=max_steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
    )
    return Trainer(
        model=str(model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "1"}] * num_rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def make_stepper(
    orders: Iterator[dict[str, Any]], answer: Callable[[dict[str, Any]], None], memory: Memory | None = None
) -> Any:
    """Trainer callback: takes a step per order, timed from the batch at hand to the optimizer's end."""
    from transformers import TrainerCallback

    class Stepper(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if next(orders, None) is None:
                sys.exit(0)
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.seconds = time.perf_counter() - self.began

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "grad_norm" in logs:
                peak = memory.growth() if memory else 0
                answer({"seconds": self.seconds, "grad_norm": float(logs["grad_norm"]), "peak_bytes": peak})

    return Stepper()


def padded_batch(work: Work) -> dict[str, np.ndarray]:
    """What TRL's generation returns: prompts, right-padded completions, their masks, advantages and token count."""
    batch = work.batch()
    completions = [c.token_ids for scored in batch.groups for c in scored.group.completions]
    prompts = [scored.group.prompt_token_ids for scored in batch.groups for _ in scored.group.completions]
    width = max(map(len, completions))
    ids, mask = (np.zeros((len(completions), width), np.int64) for _ in range(2))
    for i, tokens in enumerate(completions):
        ids[i, : len(tokens)] = tokens
        mask[i, : len(tokens)] = 1
    return {
        "prompt_ids": np.stack(prompts).astype(np.int64),
        "prompt_mask": np.ones((len(prompts), PROMPT_TOKENS), np.int64),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": np.concatenate([leave_one_out(scored.rewards) for scored in batch.groups]),
        "num_items_in_batch": np.asarray(mask.sum()),
    }


class Memory:
    """How far resident memory has grown at most since this object was made."""

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back, or it would hide later growth
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        self._start = self._read("VmRSS")

    def growth(self) -> int:
        """Bytes."""
        return self._read("VmHWM") - self._start

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
