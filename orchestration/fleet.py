"""The policy's samplers and a teacher's: what each is made of, and where it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from orchestration.cluster import Cluster, nodes_of_cluster
from orchestration.labels import Teacher
from orchestration.placement import shortfall
from orchestration.plan import ResourcePlan, bundle_of
from orchestration.weight_sync import resolve_backend
from quorum.errors import ResourceError
from rollout.settings import NO_VERSION, SamplerSettings


class Fleet:
    """Berths (see `rollout.berths`) on a Ray cluster: one placement group per sampler, kept for its replacements."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Callable[[int], SamplerSettings],
        size: Callable[[int], tuple[float, float]],
        shared: Mapping[int, Any] | None = None,
    ) -> None:
        """Bind the parts.

        Args:
            cluster: started.
            settings: of the sampler of a slot.
            size: its CPUs and GPUs.
            shared: placement groups that samplers share with learner ranks, by slot; None where each has its own.
        """
        self._cluster, self._settings, self._size = cluster, settings, size
        self._is_shared = shared is not None
        self._groups: dict[int, Any] = dict(shared or {})

    def settings(self, slot: int) -> SamplerSettings:
        return self._settings(slot)

    def options(self, slot: int) -> Mapping[str, Any]:
        if slot not in self._groups:
            if self._is_shared:
                raise ResourceError(
                    "each sampler shares a GPU with a learner rank (cluster.colocate): their number cannot change in a "
                    "live run"
                )
            self._groups[slot] = self._cluster.reserve(self._settings(slot).sampler_id, *self._size(slot))
        return self._cluster.options(self._groups[slot], *self._size(slot))

    def release(self, slot: int) -> None:
        group = self._groups.pop(slot, None)
        if group is not None and not self._is_shared:
            self._cluster.release(group)

    def why_unplaced(self, slot: int) -> str:
        return shortfall(bundle_of(*self._size(slot)), nodes_of_cluster())


def sampler_fleet(
    config: RunConfig, plan: ResourcePlan, cluster: Cluster, initial_version: int, shared: Mapping[int, Any] | None
) -> Fleet:
    """Berths of the policy's samplers."""

    def settings(slot: int) -> SamplerSettings:
        return _sampler_settings(config, plan, slot, initial_version)

    def size(slot: int) -> tuple[float, float]:
        sampler = plan.sampler(slot)
        return sampler.cpus, sampler.gpus

    return Fleet(cluster, settings, size, shared)


def teacher_fleet(config: RunConfig, plan: ResourcePlan, cluster: Cluster, teacher: Teacher) -> Fleet:
    """Berths of a teacher's samplers: weights stay those of its model, or follow the policy's average."""
    model, is_own = teacher.model, teacher.model == config.model.path

    def settings(slot: int) -> SamplerSettings:
        return replace(
            _sampler_settings(config, plan, plan.num_samplers + slot, NO_VERSION if teacher.is_average else 0),
            sampler_id=f"teacher-{slot}",
            model=str(Path(model).absolute()) if Path(model).is_dir() else model,
            revision=config.model.revision if is_own else None,
            tensor_parallel_size=config.rollout.tensor_parallel_size,
            device=plan.device,
            weight_backend=resolve_backend(config, plan.device, "average"),
            shares_device=False,
        )

    return Fleet(cluster, settings, lambda slot: (plan.cpus_per_sampler, plan.gpus_per_teacher))


def _sampler_settings(config: RunConfig, plan: ResourcePlan, slot: int, initial_version: int) -> SamplerSettings:
    size = plan.sampler(slot)
    is_bound = size.device == "cpu" and config.cluster.address == "local"
    return SamplerSettings(
        sampler_id=f"sampler-{slot}",
        model=config.model.path,
        revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
        dtype=config.rollout.dtype,
        max_model_len=config.max_model_len,
        tensor_parallel_size=size.tensor_parallel_size,
        device=size.device,
        plugins=config.run.plugins,
        engine=config.rollout.engine.name,
        engine_options=config.rollout.engine.options,
        num_threads=config.cluster.cpus_per_sampler,
        cpu_binding=_cpu_binding(config, slot, size.tensor_parallel_size) if is_bound else None,
        kv_cache_gib=config.cluster.kv_cache_gib,
        seed=config.run.seed,
        weight_backend=resolve_backend(config, size.device),
        shares_device=plan.colocate,
        initial_version=initial_version,
        stop_seconds=config.deadlines.stop_seconds,
    )


def _cpu_binding(config: RunConfig, slot: int, workers: int) -> str:
    """Cores of a sampler's workers on this machine, "0-3|4-7"; samplers wrap around when there are fewer cores."""
    cores, threads = os.cpu_count() or 1, config.cluster.cpus_per_sampler
    bindings = []
    for worker in range(slot * workers, (slot + 1) * workers):
        first = worker * threads % cores
        bindings.append(f"{first}-{min(first + threads, cores) - 1}" if threads > 1 else str(first))
    return "|".join(bindings)
