"""DeepSpeed ZeRO behind a small surface. The only importer of deepspeed.

Guarantees: nothing is compiled, every collective has a timeout, gradients are global token sums however they
are split over ranks and micro-batches, and a non-finite gradient never reaches the optimizer.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's state per weight."""


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
                "fused": True,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if low_precision:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if section.offload != "none":
        place = {"device": "cpu", "pin_memory": device == "cuda"}
        config["zero_optimization"]["offload_optimizer"] = place
        config["zero_force_ds_cpu_optimizer"] = False  # DeepSpeedCPUAdam is compiled on its first use
        if section.offload == "all":
            config["zero_optimization"]["offload_param"] = place
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
        trained = [p for p in module.parameters() if p.requires_grad]
        gradient_bytes = 4 * sum(getattr(p, "ds_numel", p.numel()) for p in trained)
        self._coalesces = section.zero_stage == 2 and gradient_bytes <= MAX_COALESCED_BYTES

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the module, so that both can be forgotten."""
        self._engine.destroy()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's forward pass; a collective under ZeRO-3."""
        return self._engine(*inputs, **options)

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
            norm = self._whole_norm()
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

    def has_finite_gradient(self) -> bool:
        """Whether the accumulated gradient is finite on all ranks. A collective."""
        if self.section.zero_stage == 0:
            return bool(torch.isfinite(torch.tensor(self._whole_norm())))
        return not self._engine.optimizer.has_overflow(self.section.zero_stage >= 2)

    def _whole_norm(self) -> float:
        """Norm of the gradient at stage 0, where every rank has all of it."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def discard(self) -> None:
        """Forget the accumulated gradient, if there is one: the optimizer is not stepped and keeps its state.

        DeepSpeed has no call for it, but skips a step whose gradient is not finite: so it is made so.
        """
        optimizer = self._engine.optimizer
        if self.section.zero_stage == 0:
            self._engine.zero_grad()
            return
        held = [gradient for part in optimizer.averaged_gradients.values() for gradient in part or ()]
        if self.section.offload == "none" and all(gradient is None for gradient in held):
            return  # DeepSpeed has skipped the step and let go of it
        optimizer.local_overflow = True  # what it goes by with an offloaded optimizer
        for gradient in held:
            if gradient is not None:
                gradient.fill_(float("nan"))
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        optimizer.local_overflow = False
        assert optimizer.overflow, "a gradient made not finite was stepped with"

    @contextlib.contextmanager
    def gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Whole parameters for reading, on every rank. A collective under ZeRO-3, nothing below."""
        if self.section.zero_stage < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield

    def master(self, parameter: nn.Parameter) -> Tensor:
        """The most precise weights of a parameter: whole, or under ZeRO-3 this rank's flat share of them.

        A collective for trained bfloat16 weights at stages 1 and 2, whose float32 masters are partitioned.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_fp32_param

        if self.section.zero_stage == 3:
            local = safe_get_local_fp32_param(parameter)
            return share_of(parameter) if local is None else local.detach()
        if parameter.dtype == torch.float32:
            return parameter.detach()
        whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        return parameter.detach() if whole is None else whole

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

    def trained_names(self) -> list[str]:
        """Names in the module of the parameters that the optimizer holds, in its order."""
        return [name for name, parameter in self._engine.module.named_parameters() if parameter.requires_grad]

    @torch.no_grad()
    def restore(self, read: Callable[[str], Mapping[str, Any]]) -> None:
        """Overwrite the trained weights and Adam's state, whatever ranks and stage they come from.

        Args:
            read: by a parameter's name in the module: "fp32", "exp_avg", "exp_avg_sq" whole, and "step".
        """
        states = self._make_states()
        step = torch.zeros(())
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                state = read(name)
                step = torch.as_tensor(state["step"], dtype=torch.float32)
                self._write(parameter, state)
        for held in states:
            held["step"] = step.to(held[MOMENTS[0]].device, copy=True)  # where the fused kernel reads it

    def _make_states(self) -> list[dict[str, Any]]:
        """Adam's state of this rank, which DeepSpeed leaves to the first update, for `_write` to fill."""
        optimizer, stage = self._engine.optimizer, self.section.zero_stage
        if stage == 0:
            flats = [parameter for parameter in self._engine.module.parameters() if parameter.requires_grad]
        else:
            flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        states = self._engine.basic_optimizer.state
        for flat in flats:
            states[flat].update({key: torch.zeros_like(flat) for key in MOMENTS})
        if stage == 3:
            self._engine.empty_partition_cache()  # else the whole small parameters that it keeps would be used on
        elif stage > 0:
            optimizer._lazy_init_hp_params_optimizer_state()
        return [states[flat] for flat in flats]

    def _write(self, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        from deepspeed import utils

        if self.section.zero_stage == 3:
            share = share_of(parameter)
            for key, whole in state.items():
                if key == "fp32":
                    share.copy_(cut_share(whole, share.numel()))
                    utils.safe_set_local_fp32_param(parameter, cut_share(whole, share.numel()))
                elif key in MOMENTS:
                    utils.safe_set_local_optimizer_state(parameter, cut_share(whole, share.numel()), key)
            return
        parameter.copy_(state["fp32"].view_as(parameter))
        if self.section.zero_stage == 0:
            for key in MOMENTS:
                self._engine.basic_optimizer.state[parameter][key].copy_(state[key].view_as(parameter))
            return
        utils.safe_set_full_fp32_param(parameter, state["fp32"])
        for key in MOMENTS:
            utils.safe_set_full_optimizer_state(parameter, state[key], key)


def to_universal(directory: Path, into: Path) -> None:
    """Cut a checkpoint of `ZeroEngine.save` at stage 1 to 3 into INTO/zero/PARAMETER/STATE.pt. For one rank alone."""
    import argparse

    from deepspeed.checkpoint import ds_to_universal

    options = argparse.Namespace(
        input_folder=str(directory / CHECKPOINT_TAG),
        output_folder=str(into),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)


def cut_share(whole: Tensor, size: int) -> Tensor:
    """[size] this rank's share of a parameter under ZeRO-3; zeros where it ends before the shares do."""
    piece = whole.reshape(-1)[dist.get_rank() * size : (dist.get_rank() + 1) * size]
    return nn.functional.pad(piece, (0, size - piece.numel()))


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Full shape of a parameter, also while ZeRO-3 keeps it partitioned."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def share_of(parameter: nn.Parameter) -> Tensor:
    """What this rank keeps of a parameter: all of it, or under ZeRO-3 its flat share, padding included."""
    return getattr(parameter, "ds_tensor", parameter).detach()


class FrozenModule:
    """A module that is only read: under ZeRO-3 partitioned like the policy, otherwise whole on every rank."""

    def __init__(self, module: nn.Module, section: LearnerSection, device: str) -> None:
        module.requires_grad_(False)
        self.is_partitioned = section.zero_stage == 3
        if not self.is_partitioned:
            self._call: Any = module.to(device)
            return
        import deepspeed

        config = _deepspeed_config(section, device)
        del config["optimizer"]
        config["bf16"]["enabled"] = next(module.parameters()).dtype == torch.bfloat16
        self._call, *_ = deepspeed.initialize(model=module, config=config)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the module, so that both can be forgotten. Nothing below ZeRO-3."""
        if self.is_partitioned:
            self._call.destroy()

    def release(self) -> None:
        """Forget gathered parameters, so that the shares may be written. Nothing below ZeRO-3."""
        if self.is_partitioned:
            self._call.empty_partition_cache()

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's forward pass; a collective under ZeRO-3."""
        return self._call(*inputs, **options)
