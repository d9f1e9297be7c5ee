"""What `make gpu-check` runs, in order, and what each figure must reach."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LIMIT_SECONDS = 480.0
"""Of a stage: two do not fit a call of ten minutes, one always does."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must reach. One of the two is None."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, figures: Mapping[str, Any]) -> bool:
        """Whether the figure is there and within the bound."""
        value = figures.get(self.figure)
        if not isinstance(value, int | float):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return (
            f"{self.figure} >= {self.at_least:g}" if self.at_least is not None else f"{self.figure} <= {self.at_most:g}"
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """One child process, whose last RESULT line holds its figures."""

    name: str
    about: str
    module: str
    arguments: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()
    """Hold on a GPU with the real shapes; a tiny stage only shows figures."""
    limit_seconds: float = LIMIT_SECONDS
    usual_seconds: float = 240.0
    """An estimate: it is not begun in a call with less time left."""
    min_gpus: int = 1
    min_gpu_gib: float = 0.0
    """Of the first GPU."""
    has_cpu_form: bool = True
    """Whether it runs with --device cpu."""

    def command(self, device: str, is_tiny: bool) -> list[str]:
        """Of the child."""
        tiny = ["--tiny"] if is_tiny else []
        return [sys.executable, "-m", self.module, *self.arguments, "--device", device, *tiny]

    def obstacle(self, device: str, gpu_gib: Iterable[float]) -> str:
        """Why it cannot run here; empty if it can.

        Args:
            device: "cuda" or "cpu".
            gpu_gib: memory of each GPU.
        """
        gpus = list(gpu_gib)
        if device == "cpu":
            return "" if self.has_cpu_form else "has no form for a CPU"
        if len(gpus) < self.min_gpus:
            return f"needs {self.min_gpus} GPUs, this machine has {len(gpus)}"
        if gpus and gpus[0] < self.min_gpu_gib:
            return f"needs {self.min_gpu_gib:g} GiB of GPU memory, there are {gpus[0]:.0f}"
        return ""


_SEVEN_B = ("--shape", "qwen2.5-7b", "--sequences", "16", "--micro-batch", "4096", "--repeats", "3")
STAGES = (
    Stage(
        "tests",
        "whole runs on the device, every published tensor compared",
        "benchmarks.gpu_check.gpu_tests",
        ("--file", "test_run_on_gpu.py"),
        (Bound("failed", at_most=0), Bound("passed", at_least=1)),
        usual_seconds=240.0,
        has_cpu_form=False,
    ),
    Stage(
        "train",
        "one whole run of the demo, sampler and learner sharing the device, and its steps' figures",
        "benchmarks.gpu_check.training",
        bounds=(Bound("logprob_gap_max", at_most=0.02), Bound("num_checked_tensors", at_least=1)),
        usual_seconds=150.0,
    ),
    Stage(
        "transfer-ipc",
        "weights of 1.5B to a sampler on the same GPU by CUDA IPC, over plain copies of the same bytes",
        "benchmarks.gpu_check.transfer",
        ("--backend", "ipc"),
        (Bound("over_copy", at_most=1.25),),
        usual_seconds=60.0,
    ),
    Stage(
        "transfer-nccl",
        "the same to a sampler on another GPU by NCCL",
        "benchmarks.gpu_check.transfer",
        ("--backend", "nccl"),
        (Bound("over_copy", at_most=1.25),),
        usual_seconds=90.0,
        min_gpus=2,
        has_cpu_form=False,
    ),
    Stage(
        "mfu-1.5b",
        "share of peak of a full update of Qwen2.5-1.5B, 2k-token sequences, optimizer included",
        "benchmarks.mfu",
        ("--shape", "qwen2.5-1.5b"),
        (Bound("mfu", at_least=0.40),),
        usual_seconds=120.0,
        min_gpu_gib=70,
    ),
    Stage(
        "engine-rate",
        "our sampler's tokens/s over those of vllm bench throughput, Qwen2.5-1.5B, CUDA graphs on",
        "benchmarks.gpu_check.engine_rate",
        ("--compare", "vllm"),
        (Bound("over_vllm", at_least=0.95),),
        usual_seconds=240.0,
        min_gpu_gib=70,
    ),
    Stage(
        "chaos",
        "in batch-invariant mode a run whose engine is killed has the history of a calm one",
        "benchmarks.gpu_check.gpu_tests",
        ("--file", "test_chaos_on_gpu.py"),
        (Bound("failed", at_most=0), Bound("passed", at_least=1)),
        usual_seconds=240.0,
        has_cpu_form=False,
    ),
    Stage(
        "invariant-rate",
        "our sampler's tokens/s in batch-invariant mode over those outside it",
        "benchmarks.gpu_check.engine_rate",
        ("--compare", "invariant"),
        usual_seconds=240.0,
        min_gpu_gib=70,
    ),
    Stage(
        "mfu-7b-lora",
        "share of peak of an update of Qwen2.5-7B with LoRA adapters",
        "benchmarks.mfu",
        (*_SEVEN_B, "--train", "lora"),
        (Bound("mfu", at_least=0.45),),
        usual_seconds=180.0,
        min_gpu_gib=70,
    ),
    Stage(
        "mfu-7b-full",
        "the same of all weights, kept in float32 without ZeRO's copies",
        "benchmarks.mfu",
        (*_SEVEN_B, "--zero-stage", "0", "--checkpointing"),
        (Bound("mfu", at_least=0.45),),
        usual_seconds=240.0,
        min_gpu_gib=135,
    ),
)
