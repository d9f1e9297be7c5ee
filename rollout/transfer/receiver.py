"""Our receiver in vLLM's worker process: what arrives is loaded layer by layer, and a receipt is kept.

One class for all transports; vLLM knows it under a name per transport. Only vLLM itself imports this module, through
the registry.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from quorum.types import AdapterMerge
from rollout.transfer import ENGINE_NAMES
from rollout.transfer.adapters import BaseWeights, merged_weights
from rollout.transfer.gloo import GlooTransport
from rollout.transfer.intake import BucketIntake
from rollout.transfer.ipc import IpcTransport
from rollout.transfer.nccl import NcclTransport
from rollout.transfer.wire import JoinOrder, UpdateOrder, merges_from_plain

_TRANSPORTS = {
    ENGINE_NAMES["gloo"]: GlooTransport,
    ENGINE_NAMES["nccl"]: NcclTransport,
    ENGINE_NAMES["ipc"]: IpcTransport,
}


@dataclass
class JoinInfo(JoinOrder, WeightTransferInitInfo):
    """`JoinOrder` as vLLM wants it."""


@dataclass
class UpdateInfo(UpdateOrder, WeightTransferUpdateInfo):
    """`UpdateOrder` as vLLM wants it."""


class BucketReceiver(WeightTransferEngine[JoinInfo, UpdateInfo]):
    """Receives a manifest's buckets and loads them."""

    init_info_cls = JoinInfo
    update_info_cls = UpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self._tied_heads = find_tied_heads(model)
        self._intake = BucketIntake(_TRANSPORTS[config.backend](device), device)
        self._base: BaseWeights | None = None
        self._receipt: dict[str, Any] = {}

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        """Leave the group of the epoch before and join this one."""
        self._intake.join(init_info, init_info.rank_offset + self.parallel_config.rank)

    def start_weight_update(self) -> None:
        """Prepare the layers; what a failed update left half-loaded is forgotten first."""
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():
                info.loaded_weights.clear()
                info.load_numel = 0
        initialize_layerwise_reload(self.model)
        self._receipt = {}

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load every bucket. Unlike vLLM's own, it synchronises only a device that has queues."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """See the class. Errors name the bucket; after one this worker is in no transfer epoch."""
        if not update_info.merges:
            self._receipt = self._intake.receive(update_info, self.model.load_weights)
            return
        adapters: dict[str, torch.Tensor] = {}
        receipt = self._intake.receive(update_info, adapters.update)
        begin = time.perf_counter()
        try:
            self._load_merged(adapters, merges_from_plain(update_info.merges))
        except Exception:
            self._intake.leave()
            raise
        receipt["seconds"]["load"] += time.perf_counter() - begin
        self._receipt = receipt

    def _load_merged(self, adapters: Mapping[str, torch.Tensor], merges: Sequence[AdapterMerge]) -> None:
        if self._base is None:
            self._base = BaseWeights.find(self.model_config.model, self.model_config.revision)
        self.model.load_weights(merged_weights(self._base, adapters, merges, self.device))

    def finish_weight_update(self) -> None:
        """Finalize the layers, then repack output layers that are tied to the embedding.

        On a CPU the output layer's matrix is repacked when loaded. A tied one is not loaded by name, so it would
        go on answering with the old weights.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        with torch.no_grad():
            for head, embedding in self._tied_heads:
                if hasattr(head, "cpu_linear"):
                    head.weight = embedding.weight
                    head.quant_method.process_weights_after_loading(head)

    def receipt(self) -> Mapping[str, Any]:
        """What the last update received: version, checksums by name (empty unless asked for), seconds by part."""
        return self._receipt

    def shutdown(self) -> None:
        """Leave the transfer group."""
        self._intake.leave()

    @staticmethod
    def trainer_send_weights(iterator: Any, trainer_args: Any) -> None:
        """An abstract method up to vLLM 0.26, without which no receiver can be made; the learner sends by itself.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("vLLM was asked to send weights to its own workers; learner.transfer sends them")


def find_tied_heads(model: torch.nn.Module) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """Pairs (output layer, input embedding) that share one weight, read off a freshly loaded model."""
    heads = [m for m in model.modules() if isinstance(m, ParallelLMHead)]
    embeddings = [
        m for m in model.modules() if isinstance(m, VocabParallelEmbedding) and not isinstance(m, ParallelLMHead)
    ]
    return [
        (head, embedding)
        for head in heads
        for embedding in embeddings
        if head.weight.numel() and head.weight.data_ptr() == embedding.weight.data_ptr()
    ]
