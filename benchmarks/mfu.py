"""Share of the device's peak that one update of our learner reaches, optimizer included.

`python -m benchmarks.mfu --shape 1.5b`: one rank under ZeRO, sequences of 2,048 tokens, random weights and tokens.
`--device cpu --tiny` takes the same path with a model of 0.1 M parameters, against the CPU's own matrix products.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_models import adapter_parameters, training_operations
from benchmarks.learn_work import PROMPT_TOKENS, Work
from benchmarks.shapes import Shape, make_shape, shape_of
from orchestration.cli.result import result_line

PEAK_TFLOPS = 989.0
"""bfloat16 matrix products of an H100 or H200 (SXM) without sparsity, by its data sheet."""
LORA_RANK = 32
K = 4


@dataclass(frozen=True, slots=True)
class LongWork(Work):
    """Sequences that all have the same length, prompt included."""

    tokens: int = 2048

    def lengths(self) -> list[list[int]]:
        """[P][k] completion tokens."""
        return [[self.tokens - PROMPT_TOKENS] * self.k for _ in range(self.prompts)]


def main() -> None:
    """Measure and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="qwen2.5-1.5b")
    parser.add_argument("--train", choices=("full", "lora"), default="full")
    parser.add_argument("--sequences", type=int, default=32, help="per update (default: 32)")
    parser.add_argument("--tokens", type=int, default=2048, help="per sequence (default: 2048)")
    parser.add_argument("--micro-batch", type=int, default=8192, help="tokens per forward pass (default: 8192)")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=2, help="default: 2")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations; not counted as work")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="0.1 M parameters and 4 sequences of 64 tokens")
    options = parser.parse_args()
    if options.tiny:
        options.shape, options.sequences, options.tokens, options.repeats = "tiny", 4, 64, 2
    print(run(options))


def run(options: argparse.Namespace) -> str:
    """Take the updates and return the RESULT line."""
    shape = shape_of(options.shape)
    work = LongWork("long", max(1, options.sequences // K), K, 0, options.tokens)
    adapters = adapter_parameters(shape, LORA_RANK) if options.train == "lora" else None
    peak = _peak(options.device, shape)
    with tempfile.TemporaryDirectory(prefix="quorum-mfu-") as scratch:
        model = make_shape(Path(scratch) / "model", options.shape, device=options.device, dtype="bfloat16")
        seconds, peak_gib, lengths = _updates(options, model, work)
    scored = sum(lengths) - PROMPT_TOKENS * len(lengths)
    operations = training_operations(shape, lengths, scored, adapter_parameters=adapters)
    median = statistics.median(seconds)
    values = {
        "mfu": operations / median / peak,
        "shape": options.shape,
        "train": options.train,
        "tokens_per_second": sum(lengths) / median,
        "update_seconds": median,
        "update_seconds_all": [round(one, 4) for one in seconds],
        "operations": operations,
        "peak_operations_per_second": peak,
        "peak_gib": peak_gib,
        "sequence_tokens": options.tokens,
        "sequences": len(lengths),
    }
    return result_line("mfu", values, seed=0, repeats=options.repeats)


def _peak(device: str, shape: Shape) -> float:
    if device == "cuda":
        return PEAK_TFLOPS * 1e12
    from benchmarks.learn import matmul_flops

    return matmul_flops(shape.hidden, os.cpu_count() or 1)


def _updates(options: argparse.Namespace, model: Path, work: Work) -> tuple[list[float], float, list[int]]:
    """Seconds of every step after one that warms up, the device's peak memory in GiB (0 on a CPU), and the tokens of
    every sequence that is trained: groups whose rewards are all equal are not."""
    from configs.schema import RunConfig
    from learner.orders import plan_step
    from learner.rank import Rank, RankSettings

    learner: dict[str, Any] = {
        "precision": "bfloat16",
        "zero_stage": options.zero_stage,
        "learning_rate": 1e-6,
        "max_tokens_per_micro_batch": options.micro_batch,
        "gradient_checkpointing": options.checkpointing,
    }
    if options.train == "lora":
        learner["lora"] = {"rank": LORA_RANK}
    settings = {
        "run": {"dir": "unused"},
        "model": {"path": str(model)},
        "data": {"train": [{"path": "unused.jsonl"}]},
        "cluster": {"cpus_per_rank": os.cpu_count() or 1},
        "rollout": {"max_completion_tokens": options.tokens},
        "learner": learner,
    }
    config = RunConfig.model_validate(settings)
    rank = Rank(RankSettings(config, 0, 1, options.device, True))
    rank.start(*rank.open_rendezvous())
    _forget_peak(options.device)
    try:
        batch = work.batch()
        planned = plan_step(batch, config, options.device)
        assert planned is not None, "work without a trained completion"
        updates = planned.orders[0].updates
        lengths = [row.num_tokens for share in updates for part in share.micro_batches for row in part]
        groups = dict(enumerate(batch.groups))
        seconds = []
        for _ in range(options.repeats + 1):
            began = time.perf_counter()
            rank.step(planned.orders[0], groups)  # its sums are numbers on the host: the device has ended
            seconds.append(time.perf_counter() - began)
        return seconds[1:], _peak_gib(options.device), lengths
    finally:
        rank.stop()


def _forget_peak(device: str) -> None:
    """Making the model took memory too."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: str) -> float:
    if device == "cpu":
        return 0.0
    import torch

    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
