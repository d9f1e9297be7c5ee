"""NCCL transport: one broadcast from rank 0 per bucket through vLLM's PyNcclCommunicator.

Expects the same bytes as the Gloo transport: bucket by bucket in manifest order, one flat uint8 device tensor of
the bucket's exact size. Rank 0 joins with `StatelessProcessGroup.create(host, port, 0, world_size)` and
`PyNcclCommunicator(group, device)`, and broadcasts in the same order.
"""

from __future__ import annotations

from typing import Any

import torch

from quorum.deadline import poll, run_within
from rollout.transfer.wire import JoinOrder, UpdateOrder


class NcclTransport:
    """See `rollout.transfer.intake.Transport`. NCCL has no deadline: the device is asked until ours has passed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._communicator: Any = None

    def join(self, order: JoinOrder, rank: int) -> None:
        """See `rollout.transfer.intake.Transport`."""
        from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

        def connect() -> Any:
            return stateless_init_process_group(order.host, order.port, rank, order.world_size, self._device)

        self._communicator = run_within(order.timeout_seconds, connect, f"joining transfer epoch {order.epoch}")

    def receive(self, number: int, flat: torch.Tensor, order: UpdateOrder) -> None:
        """See `rollout.transfer.intake.Transport`."""
        stream = torch.cuda.current_stream()
        self._communicator.broadcast(flat, src=0, stream=stream)
        poll(stream.record_event().query, order.timeout_seconds, f"the broadcast of bucket {number + 1}")

    def leave(self) -> None:
        """See `rollout.transfer.intake.Transport`. Ends what is still under way: `destroy` aborts the communicator."""
        communicator, self._communicator = self._communicator, None
        if hasattr(communicator, "destroy"):
            communicator.destroy()
