"""An exponential moving average of the policy: reference of the KL penalty, and teacher of the vote.

Kept in float32, because bfloat16 rounds away a step's small change, and followed from the float32 masters. Under
ZeRO-3 it is partitioned like the policy and followed share by share: no weight is gathered for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.schema import LearnerSection
from learner.zero import FrozenModule, ZeroEngine, cut_share, share_of
from quorum.errors import LearnerError


class AverageModule:
    """A float32 shadow of the policy: average = decay * average + (1 - decay) * policy."""

    def __init__(
        self, module: nn.Module, policy: nn.Module, engine: ZeroEngine, section: LearnerSection, device: str
    ) -> None:
        """Start from the policy as it is. A collective.

        Args:
            module: of the same class as `policy`, in float32; its own weights are overwritten.
            policy: the module inside `engine`.
            engine: ZeRO around the policy.
            section: the learner's configuration.
            device: "cpu" or "cuda".

        Raises:
            ValueError: `module` has other parameters than `policy`, or they are not float32.
        """
        wrong = [name for name, parameter in module.named_parameters() if parameter.dtype != torch.float32]
        names = [name for name, _ in module.named_parameters()]
        if wrong or names != [name for name, _ in policy.named_parameters()]:
            raise ValueError(f"the average needs the policy's parameters in float32; of another type: {wrong[:3]}")
        self.module = module
        self.decay = section.average_decay
        self._engine = engine
        self._frozen = FrozenModule(module, section, device)
        shadows = dict(module.named_parameters())
        self._pairs = [(name, shadows[name], parameter) for name, parameter in policy.named_parameters()]
        self._follow(1.0)

    def close(self) -> None:
        """Let DeepSpeed go of it."""
        self._frozen.close()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The average's forward pass; a collective under ZeRO-3."""
        return self._frozen.forward(*inputs, **options)

    def follow(self) -> None:
        """Move towards the policy, once per step. A collective for bfloat16 weights at stages 1 and 2."""
        self._follow(1.0 - self.decay)

    @torch.no_grad()
    def _follow(self, weight: float) -> None:
        self._frozen.release()
        for _, shadow, parameter in self._pairs:
            if parameter.requires_grad or weight == 1.0:
                share = share_of(shadow)
                share.lerp_(self._engine.master(parameter).to(share.device, torch.float32), weight)

    def save(self, directory: Path) -> None:
        """Write this rank's share, next to the files of `ZeroEngine.save`. Rank 0 alone where all hold the same."""
        if self._frozen.is_partitioned or dist.get_rank() == 0:
            state = {name: share_of(shadow).cpu() for name, shadow, _ in self._pairs}
            torch.save(state, directory / _file_name(dist.get_rank()))

    @torch.no_grad()
    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote, by any number of ranks at any ZeRO stage.

        Raises:
            LearnerError: there is no average in `directory`.
        """
        files = [directory / _file_name(rank) for rank in range(len(list(directory.glob(_file_name("*")))))]
        if not files:
            raise LearnerError(
                f"{directory} holds no moving average of the policy: the run kept none when this was saved; set "
                "learner.kl.reference as it was"
            )
        shares = [torch.load(file, weights_only=True, mmap=True) for file in files]
        self._frozen.release()
        for name, shadow, _ in self._pairs:
            whole = torch.cat([share[name].reshape(-1) for share in shares])
            self._put(shadow, whole)

    def _put(self, shadow: nn.Parameter, whole: Tensor) -> None:
        """Copy this rank's share out of a flat parameter, at whose end there may be padding."""
        share = share_of(shadow)
        if self._frozen.is_partitioned:
            share.copy_(cut_share(whole, share.numel()))
        else:
            share.copy_(whole[: share.numel()].view(share.shape))


def _file_name(rank: int | str) -> str:
    return f"average_{rank}.pt"
