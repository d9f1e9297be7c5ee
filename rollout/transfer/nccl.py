"""NCCL receiver: one broadcast from rank 0 per bucket through vLLM's PyNcclCommunicator.

Expects the same bytes as the Gloo receiver: bucket by bucket in manifest order, one flat uint8 device tensor of
the bucket's exact size. Rank 0 joins with `StatelessProcessGroup.create(host, port, 0, world_size)` and
`PyNcclCommunicator(group, device)`, and broadcasts in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

from rollout.transfer.receiver import BucketReceiver, JoinInfo, UpdateInfo


class NcclReceiver(BucketReceiver):
    """Registered with vLLM as "quorum_nccl". A broadcast that never comes is ended by the sampler's deadline."""

    _communicator: Any = None

    def _join(self, info: JoinInfo, rank: int) -> None:
        self._communicator = stateless_init_process_group(info.host, info.port, rank, info.world_size, self.device)

    def _receive_bucket(self, number: int, num_bytes: int, info: UpdateInfo) -> torch.Tensor:
        flat = self._buffer[:num_bytes]
        self._communicator.broadcast(flat, src=0, stream=torch.cuda.current_stream())
        torch.cuda.current_stream().synchronize()
        return flat

    def _leave(self) -> None:
        communicator, self._communicator = self._communicator, None
        if hasattr(communicator, "destroy"):
            communicator.destroy()
