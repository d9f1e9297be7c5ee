"""The policy as a Hugging Face directory that transformers and vLLM load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import ModelSection
from learner.checkpoint import writing
from learner.lora import Weight, base_name, published_weights, write_adapter
from learner.zero import ZeroEngine
from quorum.types import TensorMeta
from quorum.wire import tensor_bytes

GATHER_BYTES = 1 << 28
"""Parameters gathered at once under ZeRO-3."""


def collect_state(model: nn.Module, engine: ZeroEngine, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """Parameters, adapters merged, and persistent buffers on the host, tied weights once. A collective under ZeRO-3.

    Args:
        dtype: type of the floating-point parameters in the result.
        keep: whether this rank wants them; the others only take part in gathering.
    """
    weights = published_weights(model)
    state: dict[str, Tensor] = {}
    pending: list[Weight] = []
    size = 0
    for weight in weights:
        pending.append(weight)
        size += tensor_bytes(TensorMeta(weight.name, str(dtype).removeprefix("torch."), weight.shape))
        if size < GATHER_BYTES and weight is not weights[-1]:
            continue
        with engine.gathered([source for weight in pending for source in weight.sources]):
            if keep:
                state.update({weight.name: weight.read().to("cpu", dtype, copy=True) for weight in pending})
        pending, size = [], 0
    if keep:
        named = dict(model.named_parameters(remove_duplicate=False))
        state.update({base_name(n): b.detach().cpu() for n, b in model.state_dict().items() if n not in named})
    return state


def write_model(
    model: Any,
    state: dict[str, Tensor],
    section: ModelSection,
    dtype: torch.dtype,
    path: Path,
    adapter: dict[str, Tensor] | None = None,
) -> None:
    """Write weights, configuration, generation defaults and tokenizer to `path`, complete or not at all.

    Args:
        model: the policy's model; its configuration is written.
        state: of `collect_state`.
        section: where the tokenizer is.
        dtype: type of the weights in `state`.
        path: a directory there is replaced.
        adapter: of `lora.collect_adapter`; goes to `path`/adapter in peft's format, unless it is empty.

    Raises:
        StorageError: the disk refused.
    """
    from transformers import AutoTokenizer

    staged = path.with_name(path.name + ".partial")
    with writing(path):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        model.save_pretrained(staged, state_dict=state)
        _state_dtype(staged / "config.json", dtype)
        tokenizer = AutoTokenizer.from_pretrained(
            section.path, revision=section.revision, trust_remote_code=section.trust_remote_code
        )
        tokenizer.save_pretrained(staged)
        if adapter:
            write_adapter(model, adapter, section.path, staged / "adapter")
        for code in Path(section.path).glob("*.py"):
            shutil.copy(code, staged)
        if path.exists():
            shutil.rmtree(path)
        staged.rename(path)


def _state_dtype(config: Path, dtype: torch.dtype) -> None:
    """save_pretrained notes the type of the training weights; ours are exported in another."""
    values = json.loads(config.read_text())
    values.pop("torch_dtype", None)
    values["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
