"""`quorum plan --check`: the memory of real learner ranks on this machine beside what the plan predicts for them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.learn_work import MAX_COMPLETION_TOKENS, PROMPT_TOKENS, Work
from benchmarks.memory_ranks import Measured, measure
from benchmarks.models import VOCABULARY
from configs.schema import RunConfig
from learner.batch import Row, computed_tokens
from learner.orders import StepPlan, plan_step
from orchestration.cli.result import result_line
from orchestration.planning.learner_memory import BUCKETS, Load, learner_memory
from orchestration.planning.shape import read_shape

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and how it is trained."""

    hidden: int = 256
    layers: int = 4
    vocabulary: int = VOCABULARY
    zero_stage: int = 2
    precision: str = "float32"
    offload: str = "none"
    checkpointing: bool = False
    lora_rank: int = 0
    kl: str = ""
    """Reference of the KL; empty: none."""
    algorithm: str = "rloo"
    num_ranks: int = 2
    prompts: int = 8
    tokens: int = 1024
    """Of a micro-batch, at most."""

    def describe(self) -> str:
        words = [f"{self.hidden} x {self.layers}", f"vocabulary {self.vocabulary}", f"ZeRO-{self.zero_stage}"]
        words += [f"{self.num_ranks} ranks", self.precision]
        words += [f"offload {self.offload}"] if self.offload != "none" else []
        words += ["checkpointing"] if self.checkpointing else []
        words += [f"LoRA {self.lora_rank}"] if self.lora_rank else []
        words += [f"KL to {self.kl}"] if self.kl else []
        words += [self.algorithm] if self.algorithm != "rloo" else []
        return ", ".join(words)

    def config(self, model: Path) -> RunConfig:
        """Of the run that would train it."""
        learner = {
            "num_ranks": self.num_ranks,
            "zero_stage": self.zero_stage,
            "precision": self.precision,
            "offload": self.offload,
            "gradient_checkpointing": self.checkpointing,
            "max_tokens_per_micro_batch": self.tokens,
            "algorithm": self.algorithm,
            "lora": {"rank": self.lora_rank},
            "kl": {"coefficient": 0.001, "place": "loss", "reference": self.kl} if self.kl else {},
        }
        return RunConfig.model_validate(
            {
                "run": {"dir": "unused"},
                "model": {"path": str(model)},
                "data": {"train": [{"path": "unused.jsonl"}], "max_prompt_tokens": PROMPT_TOKENS},
                "rollout": {"dtype": "float32", "max_completion_tokens": MAX_COMPLETION_TOKENS},
                "learner": learner,
            }
        )


CASES = (
    Case(zero_stage=0),
    Case(zero_stage=1),
    Case(zero_stage=2),
    Case(zero_stage=3),
    Case(zero_stage=2, hidden=512, layers=6, tokens=512, prompts=4),
    Case(zero_stage=3, hidden=512, layers=6, tokens=512, prompts=4),
    Case(zero_stage=2, vocabulary=8192, hidden=128, layers=2),
    Case(zero_stage=2, vocabulary=65536, hidden=128, layers=2, prompts=4),
    Case(zero_stage=1, checkpointing=True),
    Case(zero_stage=3, checkpointing=True, hidden=512, layers=6, tokens=512, prompts=4),
    Case(zero_stage=2, offload="optimizer"),
    Case(zero_stage=3, offload="optimizer"),
    Case(zero_stage=3, offload="all"),
    Case(zero_stage=0, precision="bfloat16", tokens=512, prompts=4),
    Case(zero_stage=2, precision="bfloat16", tokens=512, prompts=4),
    Case(zero_stage=3, precision="bfloat16", tokens=512, prompts=4),
    Case(zero_stage=2, lora_rank=8),
    Case(zero_stage=2, kl="base"),
    Case(zero_stage=3, kl="average"),
    Case(zero_stage=2, algorithm="ppo"),
    Case(zero_stage=2, num_ranks=1),
    Case(zero_stage=3, checkpointing=True, tokens=512, prompts=2),
)
"""The formulas were corrected against these."""
HELD_OUT = (
    Case(hidden=384, layers=8, vocabulary=4096, zero_stage=3, tokens=768, prompts=6),
    Case(hidden=320, layers=3, vocabulary=32000, zero_stage=1, precision="bfloat16", tokens=512, prompts=4),
    Case(hidden=192, layers=10, zero_stage=2, checkpointing=True, kl="base", tokens=1536),
    Case(hidden=448, layers=5, vocabulary=2048, zero_stage=3, lora_rank=16, checkpointing=True, tokens=512, prompts=4),
    Case(hidden=256, layers=6, zero_stage=2, algorithm="ppo", precision="bfloat16", tokens=512),
    Case(hidden=128, layers=12, vocabulary=16384, zero_stage=3, offload="all", kl="base"),
    Case(hidden=384, layers=4, zero_stage=2, num_ranks=1, offload="optimizer", checkpointing=True),
    Case(hidden=640, layers=2, zero_stage=1, kl="average", tokens=512),
)
"""Measured for the first time when the formulas were done; nothing was changed after that."""


def run_check(seed: int, cases: Sequence[Case] = CASES, held_out: Sequence[Case] = HELD_OUT) -> str:
    """Measure every case, print prediction and measurement, and return the RESULT line.

    `memory_error` is the largest relative error of all cases, `held_out_error` that of those never fitted to.
    """
    errors = []
    for case in (*cases, *held_out):
        predicted, measured = compare(case, seed)
        errors.append(predicted / measured.peak - 1)
        print(
            f"{case.describe()}: predicted {predicted / MIB:.1f} MiB, measured {measured.peak / MIB:.1f} "
            f"({100 * errors[-1]:+.1f}%), of it {measured.held / MIB:.1f} between steps",
            flush=True,
        )
    sizes = [abs(error) for error in errors]
    values = {"memory_error": max(sizes), "num_cases": len(sizes)}
    if held_out:
        values["held_out_error"] = max(sizes[len(cases) :])
    return result_line("plan", values, seed=seed, repeats=1)


def compare(case: Case, seed: int) -> tuple[float, Measured]:
    """(predicted bytes, what was measured) of the rank that needs most."""
    with tempfile.TemporaryDirectory() as directory:
        config = case.config(_make_model(case, Path(directory) / "model"))
        batch = Work("spread", case.prompts, 8, seed).batch()
        planned = plan_step(batch, config)
        assert planned is not None, "work without a trained completion"
        measured = measure(config, planned.orders, dict(enumerate(batch.groups)))
        shape = read_shape(config.model)
    predicted = []
    for load in _loads(planned):
        memory = learner_memory(config, shape, on_gpu=False, load=load)
        predicted.append(memory.without(BUCKETS).peak_anywhere())
    worst = max(range(len(measured)), key=lambda rank: measured[rank].peak)
    return max(predicted), measured[worst]


def _loads(planned: StepPlan) -> list[Load]:
    """Of every rank the largest micro-batch."""
    loads = []
    for orders in planned.orders:
        parts = [part for share in orders.updates for part in share.micro_batches if part]
        sizes = [(computed_tokens(part), _completion_tokens(part), _repeated_tokens(part)) for part in parts]
        loads.append(Load(*max(sizes)))
    return loads


def _completion_tokens(rows: Sequence[Row]) -> int:
    return sum(row.num_tokens - row.prompt_tokens for row in rows)


def _repeated_tokens(rows: Sequence[Row]) -> int:
    return sum(row.prompt_tokens for row in rows if row.is_shared)


def _make_model(case: Case, directory: Path) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=3 * case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=case.hidden // 32,
        num_key_value_heads=case.hidden // 64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    return directory
