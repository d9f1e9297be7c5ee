"""Learner ranks with extra methods, for tests that look inside one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.rank import Rank, RankSettings
from quorum.types import GroupScores, RolloutGroup


class AveragingRank(Rank):
    """Keeps a moving average of the policy."""

    def __init__(self, settings: RankSettings) -> None:
        super().__init__(replace(settings, keeps_average=True))

    @property
    def average(self) -> Any:
        return self._models.average

    def average_weights(self) -> NDArray[np.float64]:
        """[num_parameters] of the average, flat in name order. A collective."""
        return self._flat(self.average.module.model)

    def masters(self) -> NDArray[np.float64]:
        """[num_parameters] float32 masters of the policy (not at stage 3), flat in name order. A collective."""
        import torch

        named = dict(self._model.named_parameters())
        parts = [self._engine.master(named[name]).float().reshape(-1).clone() for name in sorted(named)]
        return torch.cat(parts).double().numpy()

    def average_logprobs(self) -> list[float]:
        """Of three tokens under the average. A collective."""
        import torch

        tokens, positions = torch.tensor([[5, 9, 13, 22]]), torch.tensor([0, 1, 2])
        logprobs, _ = self.average.forward(tokens, (4,), positions, torch.tensor([9, 13, 22]), 1)
        return logprobs.tolist()

    def save_average(self, directory: str) -> None:
        self.average.save(Path(directory))

    def load_average(self, directory: str) -> None:
        self.average.load(Path(directory))

    def _flat(self, model: Any) -> NDArray[np.float64]:
        import torch

        from learner.export import collect_state

        state = collect_state(model, self._engine, torch.float32, keep=True)
        return torch.cat([state[name].reshape(-1) for name in sorted(state)]).double().numpy()


class FrozenBaseRank(Rank):
    """Measures the KL against a frozen copy of the base model, also where adapters could be turned off instead."""

    def _build(self, report: Any) -> None:
        from learner.forward import Forward
        from learner.policy import Policy, load_policy_model
        from learner.zero import FrozenModule, weights_dtype

        super()._build(report)
        config = self.settings.config
        base = Policy(load_policy_model(config.model, weights_dtype(config.learner)), temperature=1.0)
        frozen = FrozenModule(base, config.learner, self.settings.device)
        self._updater.models = replace(self._models, reference=Forward(frozen, base, self._engine.device))


class MeasuringRank(Rank):
    """Counts what taking a snapshot allocates."""

    def snapshot_bytes(self, dtype: str, max_bytes: int) -> dict[str, int]:
        """Most bytes held at once by storages made meanwhile, what is kept of them, and the largest weight. A
        collective."""
        import torch

        from learner.weights import take_snapshot

        how = {"version": 1, "incarnation": 0, "dtype": getattr(torch, dtype), "max_bytes": max_bytes}
        take_snapshot(self._model, self._engine, rank=self.settings.rank, **how)  # gathers what stays gathered
        with storage_counter() as counter:
            snapshot = take_snapshot(self._model, self._engine, rank=self.settings.rank, **how)
        largest = max(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in self._model.parameters())
        kept = sum(flat.numel() for flat in snapshot.owned.values())
        return {"peak": counter.peak, "kept": kept, "largest": largest}


def storage_counter() -> Any:
    """A context in which the bytes of every storage that an operator makes are counted for as long as it lives."""
    from torch import Tensor
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.peak = 0
            self.alive: dict[int, tuple[StorageWeakRef, int]] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            made = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in known:
                    self.alive[key] = StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes()
            self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
            return made

    return Counter()


class ScoringRank(Rank):
    """Scores groups that it is handed, without Ray."""

    def score_directly(self, groups: list[RolloutGroup]) -> list[GroupScores]:
        from learner.scoring import score_groups

        return score_groups(self._models.policy, groups, 60, self._engine.device, self._report)


class BadGradientRank(Rank):
    """Can make the policy's gradient, and no loss, not a number."""

    def spoil(self, is_spoilt: bool) -> None:
        """Spoil the gradient of the last norm's weight from now on, or no more."""
        if not is_spoilt:
            self._hook.remove()
            return
        weight = dict(self._model.named_parameters())["model.norm.weight"]
        self._hook = weight.register_hook(lambda gradient: gradient * float("nan"))
