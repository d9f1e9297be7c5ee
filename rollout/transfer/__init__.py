"""Receiving halves of the weight transports, registered with vLLM's weight-transfer API.

Importing this package imports neither vLLM nor torch. The wire format is the one of `quorum.types.TransferInit`.
"""

from __future__ import annotations

ENGINE_NAMES = {"gloo": "gloo", "nccl": "quorum_nccl", "ipc": "quorum_ipc"}
"""Transport -> name in vLLM's registry. vLLM has engines called nccl and ipc of its own; ours speak buckets."""

_RECEIVER = ("rollout.transfer.receiver", "BucketReceiver")


def register() -> None:
    """Register our receivers with vLLM. The entry point `vllm.general_plugins` calls it in every vLLM process.

    A second call changes nothing, and neither does a call in a process where another plug-in took the name.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    for name in ENGINE_NAMES.values():
        if name not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(name, *_RECEIVER)
