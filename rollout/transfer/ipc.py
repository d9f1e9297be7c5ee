"""CUDA IPC receiver, for a sampler that shares its GPU with the learner: buckets are mapped, not sent.

Expects `WeightUpdate.payload["handles"]`: one mapping per bucket, {GPU uuid: arguments of rebuild_cuda_tensor}, as
`torch.multiprocessing.reductions.reduce_tensor(flat)[1]` gives them for the bucket's flat uint8 tensor of the exact
size. The sender keeps those tensors alive and unchanged until the receipt has come back. No group is joined.
"""

from __future__ import annotations

import pickle

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from rollout.transfer.receiver import BucketReceiver, JoinInfo, UpdateInfo

_DEVICE_ARGUMENT = 6
"""Position of the device index among rebuild_cuda_tensor's arguments; the receiver's own takes its place."""


class IpcReceiver(BucketReceiver):
    """Registered with vLLM as "quorum_ipc". Handles arrive pickled by the sampler actor, this worker's ancestor."""

    def _join(self, info: JoinInfo, rank: int) -> None:
        del info, rank

    def _receive_bucket(self, number: int, num_bytes: int, info: UpdateInfo) -> torch.Tensor:
        handles = pickle.loads(info.payload["handles"][number])
        uuid = str(torch.cuda.get_device_properties(self.device.index).uuid)
        if uuid not in handles:
            raise RuntimeError(f"no handle for GPU {uuid}, the learner sent {', '.join(handles) or 'none'}")
        arguments = list(handles[uuid])
        arguments[_DEVICE_ARGUMENT] = self.device.index
        shared = rebuild_cuda_tensor(*arguments)
        if shared.numel() != num_bytes:
            raise RuntimeError(f"the mapped tensor has {shared.numel():,} bytes, the manifest says {num_bytes:,}")
        flat = self._buffer[:num_bytes]
        flat.copy_(shared)
        torch.cuda.current_stream().synchronize()
        return flat
