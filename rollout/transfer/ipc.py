"""CUDA IPC transport, for a sampler that shares its GPU with a learner rank: buckets are mapped, not sent.

Expects `WeightUpdate.payload["handles"]`: one mapping per bucket, {GPU uuid: arguments of rebuild_cuda_tensor}, as
`torch.multiprocessing.reductions.reduce_tensor(flat)[1]` gives them for the bucket's flat uint8 tensor of the exact
size. The sender keeps those tensors alive and unchanged until the receipt has come back. No group is joined.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from rollout.transfer.wire import JoinOrder, UpdateOrder

_DEVICE_ARGUMENT = 6
"""Position of the device index among rebuild_cuda_tensor's arguments; the receiver's own takes its place."""


class IpcTransport:
    """See `rollout.transfer.intake.Transport`. Handles arrive pickled by the sampler actor, this worker's ancestor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def join(self, order: JoinOrder, rank: int) -> None:
        """Nothing to join."""

    def receive(self, number: int, flat: torch.Tensor, order: UpdateOrder) -> None:
        """See `rollout.transfer.intake.Transport`."""
        uuid = str(torch.cuda.get_device_properties(self._device.index).uuid)
        shared = rebuild_cuda_tensor(*arguments_for(pickle.loads(order.payload["handles"][number]), uuid, self._device))
        if shared.numel() != flat.numel():
            raise RuntimeError(f"the mapped tensor has {shared.numel():,} bytes, the manifest says {flat.numel():,}")
        flat.copy_(shared)
        torch.cuda.current_stream().synchronize()

    def leave(self) -> None:
        """Nothing to leave."""


def arguments_for(handles: Mapping[str, tuple[Any, ...]], uuid: str, device: torch.device) -> list[Any]:
    """Arguments of rebuild_cuda_tensor for the GPU `uuid`, which this process knows as `device`.

    Raises:
        RuntimeError: no learner rank staged the bucket on that GPU.
    """
    if uuid not in handles:
        raise RuntimeError(f"no handle for GPU {uuid}, the learner sent {', '.join(handles) or 'none'}")
    arguments = list(handles[uuid])
    arguments[_DEVICE_ARGUMENT] = device.index
    return arguments
