"""Whole weights from adapters that travel alone: the base is read from the model directory, tensor by tensor.

The learner rounds the base weights to its own type when it loads them, sums in float32, and rounds to the samplers'
type: the same three steps are taken here, so what is loaded equals what a merged transfer would have brought.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from quorum.types import AdapterMerge
from quorum.wire import adapter_names, merge_adapter

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_REMEDY = "set sync.lora to merged"


class BaseWeights:
    """A model's safetensors, mapped and read lazily."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` says which file holds a tensor, by name."""
        from safetensors import safe_open

        self._file_of = dict(files)
        self._open = {path: safe_open(path, framework="pt") for path in set(files.values())}

    @classmethod
    def find(cls, model: str, revision: str | None = None) -> BaseWeights:
        """Weights of a directory or hub name, from where transformers would load them.

        Raises:
            RuntimeError: there are no safetensors.
        """
        index = _locate(model, _INDEX, revision)
        if index is not None:
            shards = json.loads(index.read_text())["weight_map"]
            located = {shard: _locate(model, shard, revision) for shard in set(shards.values())}
            missing = sorted(shard for shard, path in located.items() if path is None)
            if missing:
                raise RuntimeError(f"{index} names {', '.join(missing)}, which cannot be found")
            return cls({name: path for name, shard in shards.items() if (path := located[shard])})
        whole = _locate(model, _WHOLE, revision)
        if whole is None:
            raise RuntimeError(f"{model} has no safetensors to merge adapters into; {_REMEDY}")
        from safetensors import safe_open

        with safe_open(whole, framework="pt") as file:
            return cls(dict.fromkeys(file.keys(), whole))

    def read(self, name: str, shape: Sequence[int]) -> Tensor:
        """One weight as it is on disk.

        Raises:
            RuntimeError: there is none of that name and shape.
        """
        if name not in self._file_of:
            raise RuntimeError(f"the model directory has no tensor {name}, which the learner knows; {_REMEDY}")
        tensor = self._open[self._file_of[name]].get_tensor(name)
        if tuple(tensor.shape) != tuple(shape):
            raise RuntimeError(f"{name} is {list(tensor.shape)} on disk and {list(shape)} in the learner; {_REMEDY}")
        return tensor


def merged_weights(
    base: BaseWeights, adapters: Mapping[str, Tensor], merges: Sequence[AdapterMerge], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Whole weights by name, made one at a time as they are asked for.

    Args:
        base: of the model that the adapters belong on.
        adapters: the A and B matrices, as they arrived.
        merges: what to make, in order.
        device: where to make it.
    """
    for merge in merges:
        name, dtype, shape = merge.weight
        tensor = base.read(name, shape).to(device, getattr(torch, merge.base_dtype))
        if merge.scale is not None:
            a, b = (adapters[part] for part in adapter_names(name))
            tensor = merge_adapter(tensor, a, b, merge.scale, is_transposed=merge.is_transposed)
        yield name, tensor.to(getattr(torch, dtype))


def _locate(model: str, file: str, revision: str | None) -> Path | None:
    """A file of a directory or, as transformers resolves it, of a hub name; None if there is none."""
    if Path(model).is_dir():
        path = Path(model) / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        model,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None
