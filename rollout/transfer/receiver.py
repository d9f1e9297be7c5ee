"""What all transports share inside an engine worker: buckets in, layers loaded, checksums kept.

Runs in vLLM's worker process. Imports vLLM; only vLLM itself imports this module, through the registry.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
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

from quorum.wire import bucket_bytes
from rollout.transfer.wire import buckets_from_plain, largest_bucket_bytes, split_bucket, tensor_checksum


@dataclass
class JoinInfo(WeightTransferInitInfo):
    """`quorum.types.TransferInit`, in the plain types that vLLM passes between its processes."""

    epoch: int
    host: str
    port: int
    world_size: int
    rank_offset: int
    timeout_seconds: float


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One update's orders, in plain types."""

    version: int
    epoch: int
    buckets: list[list[list[Any]]]
    """See `rollout.transfer.wire.manifest_to_plain`."""
    verify: bool
    timeout_seconds: float
    payload: dict[str, Any] = field(default_factory=dict)


class BucketReceiver(WeightTransferEngine[JoinInfo, UpdateInfo]):
    """Receives a manifest's buckets and loads them layer by layer.

    A transport supplies `_join`, `_receive_bucket` and `_leave`. One buffer, as large as the largest bucket,
    is reused for all buckets of all updates.
    """

    init_info_cls = JoinInfo
    update_info_cls = UpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self._tied_heads = find_tied_heads(model)
        self._buffer = torch.empty(0, dtype=torch.uint8, device=device)
        self._epoch: int | None = None
        self._receipt: dict[str, Any] = {}

    @abstractmethod
    def _join(self, info: JoinInfo, rank: int) -> None:
        """Join the receiver group as `rank`; blocks at most `info.timeout_seconds`."""

    @abstractmethod
    def _receive_bucket(self, number: int, num_bytes: int, info: UpdateInfo) -> torch.Tensor:
        """Bytes of bucket `number`: [num_bytes] uint8 on the model's device, valid until the next call."""

    def _leave(self) -> None:
        """Drop the group, if there is one."""

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        """Leave the group of the epoch before and join this one."""
        self.shutdown()
        self._join(init_info, init_info.rank_offset + self.parallel_config.rank)
        self._epoch = init_info.epoch

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
        """See the class. Errors name the bucket."""
        if update_info.epoch != self._epoch:
            raise RuntimeError(f"update for transfer epoch {update_info.epoch}, this worker joined {self._epoch}")
        buckets = buckets_from_plain(update_info.buckets)
        self._reserve(largest_bucket_bytes(buckets))
        checksums: dict[str, str] = {}
        seconds = {"receive": 0.0, "verify": 0.0, "load": 0.0}
        for number, bucket in enumerate(buckets):
            marks = [time.perf_counter()]
            try:
                flat = self._receive_bucket(number, bucket_bytes(bucket), update_info)
            except Exception as exc:
                raise RuntimeError(
                    f"bucket {number + 1} of {len(buckets)} ({bucket_bytes(bucket):,} bytes, first tensor "
                    f"{bucket[0].name}) did not arrive within {update_info.timeout_seconds:g} s: {exc}"
                ) from exc
            marks.append(time.perf_counter())
            tensors = split_bucket(flat, bucket)
            if update_info.verify:
                checksums.update((name, tensor_checksum(tensor)) for name, tensor in tensors)
            marks.append(time.perf_counter())
            self.model.load_weights(tensors)
            marks.append(time.perf_counter())
            for phase, begin, end in zip(seconds, marks, marks[1:], strict=False):
                seconds[phase] += end - begin
        self._receipt = {"version": update_info.version, "checksums": checksums, "seconds": seconds}

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
        self._leave()
        self._epoch = None

    def _reserve(self, num_bytes: int) -> None:
        if self._buffer.numel() < num_bytes:
            self._buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)


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
