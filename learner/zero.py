"""DeepSpeed ZeRO behind a small surface. The only importer of deepspeed.

Guarantees: nothing is compiled, every collective has a timeout, gradients are global token sums however they
are split over ranks and micro-batches, and a non-finite gradient never reaches the optimizer.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.schema import LearnerSection
from quorum.errors import LearnerError, NonFiniteLoss

MAX_COALESCED_BYTES = 1 << 28
"""Gradients up to this size are kept whole and reduced once per update under ZeRO-2 too; larger ones are
reduced and partitioned after every micro-batch, which is what ZeRO-2 saves memory by."""

NOT_STEPPED = (
    "the optimizer was not stepped; if it happens again after a resume, lower learner.learning_rate in a new run"
)

CHECKPOINT_TAG = "zero"


def listen(host: str, port: int = 0) -> tuple[socket.socket, int]:
    """Bind a listening socket to `host`, on a free port for 0. The store that takes it over listens there only."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener, listener.getsockname()[1]


def store_over(listener: socket.socket, host: str, world_size: int, timeout: timedelta) -> dist.TCPStore:
    """Serve a rendezvous store from an already bound socket; returns at once, before anyone joined."""
    port = listener.getsockname()[1]
    return dist.TCPStore(
        host,
        port,
        world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
        use_libuv=True,
    )


def start_process_group(store: dist.Store, rank: int, world_size: int, device: str, timeout: timedelta) -> None:
    """Join the learner's process group and make it DeepSpeed's.

    DeepSpeed compiles a shared-memory collective on its first Gloo group, which takes half a minute and needs
    a compiler: all of its optional compiled operations are marked incompatible beforehand.
    """
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    deepspeed.ops.__compatible_ops__ = collections.defaultdict(bool)
    deepspeed.utils.logger.setLevel(logging.ERROR)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)


def stop_process_group() -> None:
    """Leave the process group; collectives of other ranks then fail instead of waiting."""
    if dist.is_initialized():
        dist.destroy_process_group()


def weights_dtype(section: LearnerSection) -> torch.dtype:
    """Type of the weights that the forward pass uses.

    Under bfloat16, stages 0 and 1 keep float32 weights and compute in bfloat16 by autocast; stages 2 and 3
    keep bfloat16 weights beside partitioned float32 masters, and accumulate gradients in float32.
    """
    if section.precision == "bfloat16" and section.zero_stage >= 2:
        return torch.bfloat16
    return torch.float32


def autocast_dtype(section: LearnerSection) -> torch.dtype | None:
    """Compute type over float32 weights; see `weights_dtype`."""
    return torch.bfloat16 if section.precision == "bfloat16" and section.zero_stage < 2 else None


def _deepspeed_config(section: LearnerSection, device: str) -> dict[str, Any]:
    low_precision = weights_dtype(section) == torch.bfloat16
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": section.max_grad_norm,
        "bf16": {"enabled": low_precision},
        "zero_optimization": {
            "stage": section.zero_stage,
            "overlap_comm": device == "cuda",
            "contiguous_gradients": True,
        },
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": section.learning_rate,
                "betas": list(section.betas),
                "weight_decay": section.weight_decay,
                "torch_adam": True,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if low_precision:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


class ZeroEngine:
    """A module under ZeRO: forward, accumulate, step, gather, save and load."""

    def __init__(self, module: nn.Module, section: LearnerSection, device: str) -> None:
        import deepspeed

        self.section = section
        self.world_size = dist.get_world_size()
        self._engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            config=_deepspeed_config(section, device),
        )
        gradient_bytes = 4 * sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
        self._coalesces = section.zero_stage == 2 and gradient_bytes <= MAX_COALESCED_BYTES

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def forward(self, *inputs: Any) -> Any:
        """The module's forward pass; a collective under ZeRO-3."""
        return self._engine(*inputs)

    @contextlib.contextmanager
    def accumulation(self) -> Iterator[None]:
        """One update's backward passes: gradients are reduced once where memory allows."""
        with self._engine.coalesce_grad_reduction() if self._coalesces else contextlib.nullcontext():
            yield

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of this rank's share of a sum over all ranks.

        Args:
            loss: scalar; the update minimises the sum of these over ranks and micro-batches.
            is_last: whether this is the update's last micro-batch.
        """
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)  # DeepSpeed averages over ranks

    def step(self, learning_rate: float) -> float:
        """Clip and apply the accumulated gradient.

        Returns:
            Norm of the gradient before clipping.

        Raises:
            NonFiniteLoss: the gradient is not finite on some rank; on all of them the optimizer was not stepped.
        """
        if self.section.zero_stage == 0:
            norm = float(torch.nn.utils.get_total_norm([p.grad for p in self._engine.module.parameters()]))
            if not torch.isfinite(torch.tensor(norm)):
                self._engine.zero_grad()
                raise NonFiniteLoss(f"the gradient's norm is {norm}; {NOT_STEPPED}")
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        if self.section.zero_stage == 0:
            return norm
        if self._engine.optimizer.overflow:
            raise NonFiniteLoss(f"the gradient is not finite; {NOT_STEPPED}")
        return float(self._engine.get_global_grad_norm())

    @contextlib.contextmanager
    def gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Whole parameters for reading, on every rank. A collective under ZeRO-3, nothing below."""
        if self.section.zero_stage < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield

    def save(self, directory: Path, client_state: dict[str, Any]) -> None:
        """Write this rank's part of the checkpoint. A collective."""
        state = {"quorum": client_state, "universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
        self._engine.save_checkpoint(str(directory), tag=CHECKPOINT_TAG, client_state=state, save_latest=True)

    def load(self, directory: Path) -> dict[str, Any]:
        """Load what `save` wrote, with the same ranks and stage, into a fresh engine. A collective.

        Raises:
            LearnerError: DeepSpeed found no checkpoint there.
        """
        path, state = self._engine.load_checkpoint(str(directory), tag=CHECKPOINT_TAG)
        if path is None or state is None:
            raise LearnerError(f"{directory} holds no learner checkpoint of {self.world_size} ranks")
        return state["quorum"]


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Full shape of a parameter, also while ZeRO-3 keeps it partitioned."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


class FrozenModule:
    """A module that is only read: under ZeRO-3 partitioned like the policy, otherwise whole on every rank."""

    def __init__(self, module: nn.Module, section: LearnerSection, device: str) -> None:
        module.requires_grad_(False)
        if section.zero_stage < 3:
            self._call: Any = module.to(device)
            return
        import deepspeed

        config = _deepspeed_config(section, device)
        del config["optimizer"]
        self._call, *_ = deepspeed.initialize(model=module, config=config)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """The module's forward pass; a collective under ZeRO-3."""
        return self._call(*inputs)
