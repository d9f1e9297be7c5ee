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
from learner.zero import ZeroEngine, shape_of
from quorum.types import TensorMeta
from quorum.wire import tensor_bytes

GATHER_BYTES = 1 << 28
"""Parameters gathered at once under ZeRO-3."""


def collect_state(model: nn.Module, engine: ZeroEngine, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the host, tied weights once. A collective under ZeRO-3.

    Args:
        dtype: type of the floating-point parameters in the result.
        keep: whether this rank wants them; the others only take part in gathering.
    """
    parameters = dict(model.named_parameters())
    state: dict[str, Tensor] = {}
    pending: list[str] = []
    size = 0
    for name, parameter in parameters.items():
        pending.append(name)
        size += tensor_bytes(TensorMeta(name, str(dtype).removeprefix("torch."), shape_of(parameter)))
        if size < GATHER_BYTES and name != next(reversed(parameters)):
            continue
        with engine.gathered([parameters[n] for n in pending]):
            if keep:
                state.update({n: parameters[n].detach().to("cpu", dtype, copy=True) for n in pending})
        pending, size = [], 0
    if keep:
        named = dict(model.named_parameters(remove_duplicate=False))
        state.update({n: b.detach().cpu() for n, b in model.state_dict().items() if n not in named})
    return state


def write_model(model: Any, state: dict[str, Tensor], section: ModelSection, dtype: torch.dtype, path: Path) -> None:
    """Write weights, configuration, generation defaults and tokenizer to `path`, complete or not at all.

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
