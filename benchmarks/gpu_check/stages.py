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


_SEVEN_B = ("--shape", "7b", "--sequences", "16", "--micro-batch", "4096", "--repeats", "3")
STAGES = (
    Stage(
        "tests",
        "tests/gpu: whole runs on the device, every weight compared",
        "benchmarks.gpu_check.gpu_tests",
        bounds=(Bound("failed", at_most=0), Bound("passed", at_least=1)),
        has_cpu_form=False,
    ),
    Stage(
        "mfu-1.5b",
        "share of peak of a full update of Qwen2.5-1.5B, 2k-token sequences, optimizer included",
        "benchmarks.mfu",
        ("--shape", "1.5b"),
        (Bound("mfu", at_least=0.40),),
        usual_seconds=150.0,
        min_gpu_gib=70,
    ),
    Stage(
        "mfu-7b-lora",
        "the same of Qwen2.5-7B with LoRA adapters",
        "benchmarks.mfu",
        (*_SEVEN_B, "--train", "lora", "--checkpointing"),
        (Bound("mfu", at_least=0.45),),
        usual_seconds=200.0,
        min_gpu_gib=70,
    ),
    Stage(
        "mfu-7b-full",
        "the same of Qwen2.5-7B, all weights",
        "benchmarks.mfu",
        (*_SEVEN_B, "--checkpointing"),
        (Bound("mfu", at_least=0.45),),
        usual_seconds=240.0,
        min_gpu_gib=135,
    ),
)
