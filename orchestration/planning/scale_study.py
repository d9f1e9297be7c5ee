"""A run on up to 1,000 GPUs as a model: every resource's seconds per step, and which of them is full first.

Samplers and ranks multiply with the GPUs. The driver, the log's one writer, rank 0 that gathers buckets, and the
network into one node do not: their seconds per step are set against the step's.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import RunConfig
from orchestration.append_lane import MOST_GROUPS
from orchestration.planning.activations import HALF
from orchestration.planning.devices import DEVICES
from orchestration.planning.estimate import Hardware, make_estimate
from orchestration.planning.rates import GATHER, NETWORK
from orchestration.planning.scale_fit import DriverFit
from orchestration.planning.shape import ModelShape, make_shape

SIZES = (8, 64, 256, 1000)
"""GPUs."""
GROUPS_PER_GPU = 4
COMPLETIONS = 32
MAX_PROMPT, MAX_COMPLETION, MEAN_COMPLETION = 1024, 3072, 1000
ANSWERS_PER_WORKER = 4100.0
"""Per second with math-verify, cold (README, `quorum bench vote`)."""
LOG_BYTES_PER_TOKEN = 12.3
"""In the log, measured: id and log-probability of 4 bytes each, and text of 4 characters."""
LOG_BYTES_PER_SECOND = 4e8
"""That one writer brings to a disk with fsync. An assumption: measure the disk at hand."""
FSYNC_SECONDS = 5e-3
"""Of one record, which groups that wait share (`append_lane.MOST_GROUPS`). An assumption, of a solid state disk."""
RECORD_SECONDS = 0.7e-3
"""Of the writer's CPU per group of COMPLETIONS x MEAN_COMPLETION tokens, measured (docs/LOG.md)."""
CALL_SECONDS = 0.2e-3
"""Of the driver per call to an actor when weights are swapped: two calls per sampler and version. An assumption."""

MODELS: dict[str, tuple[dict[str, object], int]] = {
    "1.5B": (
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        1,
    ),
    "7B": (
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        1,
    ),
    "32B": (
        {
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "num_hidden_layers": 64,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        4,
    ),
    "72B": (
        {
            "hidden_size": 8192,
            "intermediate_size": 29568,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        8,
    ),
}
"""Qwen2.5's sizes, and the GPUs of a sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One model on so many GPUs."""

    model: str
    gpus: int
    num_samplers: int
    num_ranks: int
    groups: int
    """Per step."""
    step_seconds: float
    """With nothing but samplers, learner and transfer."""
    groups_per_second: float
    resources: dict[str, float]
    """Seconds that each of what does not grow with the GPUs needs for one step."""

    @property
    def first(self) -> str:
        """The resource that is fullest."""
        return max(self.resources, key=self.resources.__getitem__)

    @property
    def load(self) -> float:
        """Its seconds over the step's; above 1 it sets the pace."""
        return self.resources[self.first] / self.step_seconds


def study_config(workers: int, gpus: int) -> RunConfig:
    """A run that scales weakly: so many groups per GPU, overlapped, ZeRO-3 with checkpointing."""
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"path": "unused"},
            "data": {"train": [{"path": "unused.jsonl"}], "max_prompt_tokens": MAX_PROMPT},
            "rollout": {
                "prompts_per_step": GROUPS_PER_GPU * gpus,
                "completions_per_prompt": COMPLETIONS,
                "max_completion_tokens": MAX_COMPLETION,
                "tensor_parallel_size": workers,
                "max_off_policy_steps": 1,
            },
            "learner": {
                "num_ranks": 1,
                "zero_stage": 3,
                "gradient_checkpointing": True,
                "importance": {"mode": "truncate"},
                "old_logprobs": "current",
            },
        }
    )


def project(name: str, gpus: int, fit: DriverFit, *, device: str = "h100") -> Projection | None:
    """One cell of the study; None where the model does not fit on so many GPUs."""
    sizes, workers = MODELS[name]
    shape = _shape(name, sizes)
    found = DEVICES[device]
    hardware = Hardware(gpus=gpus, gpu_bytes=1e9 * found.memory_gb, gpus_per_node=8, device=found)
    config = study_config(workers, gpus)
    estimate = make_estimate(config, shape, hardware, mean_completion_tokens=MEAN_COMPLETION)
    step = estimate.recommended
    if step is None:
        return None
    groups = config.rollout.prompts_per_step
    seconds = max(step.rollout_seconds, step.learn_seconds) + step.sync_seconds
    return Projection(
        model=name,
        gpus=gpus,
        num_samplers=step.num_samplers,
        num_ranks=step.num_ranks,
        groups=groups,
        step_seconds=seconds,
        groups_per_second=groups / seconds,
        resources=_resources(shape, fit, groups, step.num_samplers, step.num_ranks, gpus),
    )


def _resources(
    shape: ModelShape, fit: DriverFit, groups: int, samplers: int, ranks: int, gpus: int
) -> dict[str, float]:
    """Seconds per step."""
    whole = HALF * shape.num_parameters
    logged = groups * COMPLETIONS * MEAN_COMPLETION * LOG_BYTES_PER_TOKEN
    return {
        "driver": groups * fit.milliseconds(samplers) / 1e3,
        "driver's calls for a swap": 2 * samplers * CALL_SECONDS,
        "votes of one worker per 8 GPUs": groups * COMPLETIONS / ANSWERS_PER_WORKER / max(1, gpus // 8),
        "log writer": groups * (FSYNC_SECONDS / MOST_GROUPS + RECORD_SECONDS) + logged / LOG_BYTES_PER_SECOND,
        "rank 0 gathers weights": whole * (ranks - 1) / ranks / GATHER,
        "broadcast of weights": whole / NETWORK,
    }


def _shape(name: str, sizes: dict[str, object]) -> ModelShape:
    return make_shape(f"Qwen2.5-{name}", "qwen2", sizes)


def study(fit: DriverFit, sizes: tuple[int, ...] = SIZES) -> str:
    """The table of docs/scaling.md."""
    rows = [
        "driver: "
        f"{fit.milliseconds(1000):.2f} ms of CPU per group at 1,000 samplers; a core of its own bears "
        f"{fit.limit(1000, cores=1.0):,.0f} groups/s",
        "",
        "| model | GPUs | samplers + ranks | groups | step, s | groups/s | fullest | its share of the step | next |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        for gpus in sizes:
            found = project(name, gpus, fit)
            rows.append(f"| {name} | {gpus:,} | does not fit | | | | | | |" if found is None else _row(found))
    return "\n".join(rows)


def _row(found: Projection) -> str:
    ranked = sorted(found.resources.items(), key=lambda item: -item[1])
    second, seconds = ranked[1]
    return (
        f"| {found.model} | {found.gpus:,} | {found.num_samplers} + {found.num_ranks} | {found.groups:,} | "
        f"{found.step_seconds:.1f} | {found.groups_per_second:.1f} | {found.first} | {found.load:.0%} | "
        f"{second}, {seconds / found.step_seconds:.0%} |"
    )
