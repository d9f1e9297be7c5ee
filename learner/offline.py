"""Offline training on fixed completions with TRL's trainers: supervised, DPO, and ScPO's weighted preference loss.

Token ids go in as they were sampled: nothing is tokenised, no template is applied and no end of text is added. One
process; on a GPU where there is one. Needs the extra `distill` (trl).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from configs.schema import ModelSection
from learner.checkpoint import writing

Method = Literal["sft", "dpo", "scpo"]
SAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineSettings:
    """How an offline training goes."""

    method: Method
    model: ModelSection
    """The model to start from; also DPO's and ScPO's reference."""
    learning_rate: float
    """Constant."""
    batch_size: int
    """Examples or pairs per update."""
    micro_batch_size: int
    """Examples or pairs per forward pass; divides batch_size."""
    epochs: float
    max_tokens: int | None
    """Training ends with the update that reaches so many tokens; None: with the last epoch."""
    beta: float
    """Strength of the reference in DPO and ScPO."""
    nll_weight: float
    """Weight of the chosen completions' negative log-likelihood in DPO and ScPO."""
    seed: int
    """Of the order of examples."""
    precision: Literal["float32", "bfloat16"]
    """bfloat16: autocast over float32 weights."""


@dataclass(frozen=True, slots=True)
class OfflineResult:
    """What an offline training did."""

    num_updates: int
    num_tokens: int
    """Prompt and completion tokens that went through the policy, without padding and without the reference's passes."""
    losses: tuple[float, ...]
    """[num_updates]"""
    seconds: float
    """Of training alone."""


def train_offline(
    settings: OfflineSettings,
    columns: Mapping[str, Sequence[Any]],
    out: Path,
    dtype: torch.dtype,
    say: Callable[[str], None] = lambda text: None,
) -> OfflineResult:
    """Train and write a Hugging Face directory.

    Args:
        settings: how.
        columns: token ids as lists. sft: `prompt_ids`, `completion_ids`; dpo and scpo: `prompt_ids`, `chosen_ids`,
            `rejected_ids`, and for scpo `weight`.
        out: the directory, which does not exist.
        dtype: type of the weights in it.
        say: told how far training is, every SAY_SECONDS.

    Raises:
        StorageError: the disk refused.
    """
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()
    section = settings.model
    tokenizer = AutoTokenizer.from_pretrained(
        section.path, revision=section.revision, trust_remote_code=section.trust_remote_code
    )
    with tempfile.TemporaryDirectory(prefix="quorum-distill-") as scratch:
        trainer = _trainer(settings, columns, tokenizer, scratch, say)
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
    losses = tuple(float(row["loss"]) for row in trainer.state.log_history if "loss" in row)
    _write(trainer.model, tokenizer, section, dtype, out)
    return OfflineResult(trainer.state.global_step, trainer.num_tokens_done, losses, seconds)


def scpo_loss(
    policy: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    num_chosen_tokens: Tensor,
    weights: Tensor,
    *,
    beta: float,
    nll_weight: float,
) -> Tensor:
    """ScPO (arXiv 2411.04109): mean of w * (-log sigmoid(beta * margin) - nll_weight * log p(chosen) / |chosen|).

    The margin is the policy's log-odds of chosen over rejected less the reference's.

    Args:
        policy: [B] and [B] summed log-probabilities of the chosen and the rejected completions.
        reference: the same under the reference model.
        num_chosen_tokens: [B]
        weights: [B] w(x), the share of votes by which the chosen answer leads.

    Returns:
        A scalar.
    """
    margin = (policy[0] - policy[1]) - (reference[0] - reference[1])
    losses = -functional.logsigmoid(beta * margin) - nll_weight * policy[0] / num_chosen_tokens
    return (weights * losses).mean()


class _CountsTokens:
    """Counts the tokens that training has seen; ends it after a number of them."""

    num_tokens_done = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        self.num_tokens_done += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc,no-any-return]


class SupervisedTrainer(_CountsTokens, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer."""


class PreferenceTrainer(_CountsTokens, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer over token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class WeightedTrainer(PreferenceTrainer):
    """PreferenceTrainer with ScPO's loss."""

    nll_weight = 1.0

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """`scpo_loss` of a batch whose first half is chosen and whose second half is rejected."""
        weights = inputs["weights"]
        mask = inputs["completion_mask"][:, 1:]
        policy = _summed_logprobs(model, inputs, mask).chunk(2)
        with torch.no_grad():
            reference = _summed_logprobs(self.ref_model, inputs, mask).chunk(2)
        lengths = mask.chunk(2)[0].sum(dim=1)
        return scpo_loss(policy, reference, lengths, weights, beta=self.beta, nll_weight=self.nll_weight)


def _summed_logprobs(model: Any, inputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """[2B] log-probability of each completion."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
    targets = inputs["input_ids"][:, 1:]
    losses = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
    return -(losses * mask).sum(dim=1)


class _WithWeights(DataCollatorForPreference):  # type: ignore[misc]
    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **super().torch_call(examples),
            "weights": torch.tensor([example["weight"] for example in examples], dtype=torch.float32),
        }


class _Course(TrainerCallback):  # type: ignore[misc]
    """Ends training at the token limit, and tells how far it is."""

    def __init__(self, limit: int | None, say: Callable[[str], None]) -> None:
        self.limit, self.say = limit, say
        self.trainer: Any = None
        self._said = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        done = self.trainer.num_tokens_done
        if self.limit is not None and done >= self.limit:
            control.should_training_stop = True
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            self.say(f"update {state.global_step} of at most {state.max_steps}: {done:,} tokens")
        return control


def _trainer(
    settings: OfflineSettings,
    columns: Mapping[str, Sequence[Any]],
    tokenizer: Any,
    scratch: str,
    say: Callable[[str], None],
) -> Any:
    course = _Course(settings.max_tokens, say)
    common = {"processing_class": tokenizer, "callbacks": [course]}
    model = _load(settings.model)
    if settings.method == "sft":
        pairs = list(zip(columns["prompt_ids"], columns["completion_ids"], strict=True))
        data = Dataset.from_dict(
            {
                "input_ids": [[*prompt, *completion] for prompt, completion in pairs],
                "completion_mask": [[0] * len(prompt) + [1] * len(completion) for prompt, completion in pairs],
            }
        )
        arguments: Any = SFTConfig(scratch, completion_only_loss=True, packing=False, **_arguments(settings))
        trainer: Any = SupervisedTrainer(model, args=arguments, train_dataset=data, **common)
    else:
        arguments = DPOConfig(
            scratch,
            beta=settings.beta,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, settings.nll_weight],
            **_arguments(settings),
        )
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        made, collator = (
            (PreferenceTrainer, DataCollatorForPreference)
            if settings.method == "dpo"
            else (WeightedTrainer, _WithWeights)
        )
        data = Dataset.from_dict({name: list(values) for name, values in columns.items()})
        reference = _load(settings.model).eval()
        trainer = made(
            model, reference, arguments, data_collator=collator(pad_token_id=pad), train_dataset=data, **common
        )
        trainer.nll_weight = settings.nll_weight
    course.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: OfflineSettings) -> dict[str, Any]:
    return {
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // settings.micro_batch_size,
        "num_train_epochs": settings.epochs,
        "max_length": None,
        "seed": settings.seed,
        "bf16": settings.precision == "bfloat16",
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def _load(section: ModelSection) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        section.path,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        dtype=torch.float32,
    )


def _write(model: Any, tokenizer: Any, section: ModelSection, dtype: torch.dtype, out: Path) -> None:
    """Write `out` whole or not at all."""
    staged = out.with_name(out.name + ".partial")
    with writing(out):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        model.to(dtype).save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        for code in Path(section.path).glob("*.py"):
            shutil.copy(code, staged)
        staged.rename(out)
