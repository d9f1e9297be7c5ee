"""What a run needs, worked out and checked before anything starts: devices, resources, model arithmetic."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from configs.schema import RunConfig
from quorum.errors import ResourceError

FEWER = "lower rollout.num_samplers, rollout.tensor_parallel_size or learner.num_ranks"


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """Actors of a run and what each of them takes."""

    device: str
    """cpu or cuda"""
    num_samplers: int
    num_ranks: int
    num_replicas: int
    cpus_per_sampler: int
    """All workers of one sampler together."""
    cpus_per_rank: int
    gpus_per_sampler: float
    gpus_per_rank: float
    colocate: bool
    local_gpus: int
    """GPUs a locally started Ray is given."""
    num_teachers: int = 0
    """Samplers of a teacher, each as large as one of the policy's."""
    gpus_per_teacher: float = 0

    @property
    def total_cpus(self) -> int:
        """Logical CPUs; a local Ray is started with as many, whatever the machine has."""
        samplers = (self.num_samplers + self.num_teachers) * self.cpus_per_sampler
        return samplers + self.num_ranks * self.cpus_per_rank + self.num_replicas

    @property
    def total_gpus(self) -> int:
        if self.device == "cpu":
            return 0
        teachers = round(self.num_teachers * self.gpus_per_teacher)
        if self.colocate:
            return max(self.num_samplers, self.num_ranks) + teachers
        return round(self.num_samplers * self.gpus_per_sampler + self.num_ranks * self.gpus_per_rank) + teachers

    def gpu_sentence(self) -> str:
        """The arithmetic of the GPUs, in words."""
        others = f" + {self.num_ranks} ranks" if self.num_ranks else ""
        others += f" + {self.num_teachers} teachers of {self.gpus_per_teacher:g}" if self.num_teachers else ""
        return f"{self.num_samplers} samplers of {self.gpus_per_sampler:g} GPUs{others} need {self.total_gpus} GPUs"

    def check_cluster(self, resources: Mapping[str, float]) -> None:
        """Raise ResourceError when an existing cluster is too small in sum."""
        have_cpus, have_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if have_gpus < self.total_gpus:
            raise ResourceError(f"{self.gpu_sentence()}, the cluster has {have_gpus}; {FEWER}")
        if have_cpus < self.total_cpus:
            raise ResourceError(
                f"{self.num_samplers} samplers of {self.cpus_per_sampler} CPUs + {self.num_ranks} ranks of "
                f"{self.cpus_per_rank} + {self.num_teachers} teachers of {self.cpus_per_sampler} + "
                f"{self.num_replicas} voting replicas need {self.total_cpus} CPUs, "
                f"the cluster has {have_cpus}; lower the counts, or run locally with cluster.address=local"
            )

    def describe(self) -> list[str]:
        """Lines for --dry-run and the log."""
        cores = os.cpu_count() or 1
        lines = [
            f"device           {self.device}",
            f"samplers         {self.num_samplers} x ({self.cpus_per_sampler} CPU, {self.gpus_per_sampler:g} GPU)",
            f"learner ranks    {self.num_ranks} x ({self.cpus_per_rank} CPU, {self.gpus_per_rank:g} GPU)",
            *(
                [f"teachers         {self.num_teachers} x ({self.cpus_per_sampler} CPU, {self.gpus_per_teacher:g} GPU)"]
                if self.num_teachers
                else []
            ),
            f"voting replicas  {self.num_replicas} x (1 CPU)",
            f"in all           {self.total_cpus} logical CPUs, {self.total_gpus} GPUs",
        ]
        if self.total_cpus > cores:
            lines.append(
                f"note             {self.total_cpus} logical CPUs share {cores} cores: in the strict schedule "
                "samplers and learner take turns"
            )
        return lines


def resolve_device(config: RunConfig, cluster: Mapping[str, float] | None = None) -> tuple[str, int]:
    """The one place where the device is decided: (cpu|cuda, GPUs of this machine).

    `cluster` holds the resources of an existing cluster; None means this machine.
    """
    wanted = config.cluster.device
    if cluster is not None:
        return ("cuda" if cluster.get("GPU") else "cpu") if wanted == "auto" else wanted, 0
    num_gpus = _num_local_gpus()
    if wanted == "auto":
        return ("cuda" if num_gpus else "cpu"), num_gpus
    if wanted == "cuda" and not num_gpus:
        raise ResourceError(
            "cluster.device is cuda, but torch sees no GPU on this machine; set cluster.device=cpu, "
            "or cluster.address to a cluster that has GPUs (`quorum doctor` shows what is there)"
        )
    return wanted, num_gpus if wanted == "cuda" else 0


def make_plan(
    config: RunConfig,
    *,
    with_learner: bool = True,
    with_samplers: bool = True,
    with_voters: bool = True,
    cluster: Mapping[str, float] | None = None,
    num_teachers: int = 0,
) -> ResourcePlan:
    """Work out what the run needs.

    Args:
        config: the run's configuration.
        with_learner: False where nothing is learned, as in an evaluation.
        with_samplers: False where nothing is generated.
        with_voters: False where nothing is voted on.
        cluster: resources of the existing cluster that is to be used ("CPU", "GPU" in all); None for this machine.
        num_teachers: samplers of a teacher.

    Raises:
        ResourceError: the machine or cluster cannot hold it; gives the arithmetic.
    """
    device, local_gpus = resolve_device(config, cluster)
    is_cuda = device == "cuda"
    colocate = config.cluster.colocate and is_cuda and with_samplers
    service = config.voting.service
    workers = config.rollout.tensor_parallel_size
    plan = ResourcePlan(
        device=device,
        num_samplers=config.rollout.num_samplers if with_samplers else 0,
        num_ranks=config.learner.num_ranks if with_learner else 0,
        num_replicas=max(service.num_replicas, service.max_replicas or 0) if with_voters else 0,
        cpus_per_sampler=config.cluster.cpus_per_sampler * workers,
        cpus_per_rank=config.cluster.cpus_per_rank,
        gpus_per_sampler=(0.5 if colocate else workers) if is_cuda else 0,
        gpus_per_rank=(0.5 if colocate else 1) if is_cuda else 0,
        colocate=colocate,
        local_gpus=local_gpus,
        num_teachers=num_teachers,
        gpus_per_teacher=workers if is_cuda else 0,
    )
    if colocate and (workers, plan.num_samplers, max(1, plan.num_ranks)) != (1, 1, 1):
        raise ResourceError(
            "cluster.colocate shares one GPU between one sampler and one rank, but there are "
            f"{plan.num_samplers} samplers of {workers} GPUs and {plan.num_ranks} ranks; set rollout.num_samplers, "
            "rollout.tensor_parallel_size and learner.num_ranks to 1, or give them GPUs of their own"
        )
    if cluster is not None:
        plan.check_cluster(cluster)
    elif plan.total_gpus > local_gpus:
        raise ResourceError(f"{plan.gpu_sentence()}, this machine has {local_gpus}; {FEWER}")
    return plan


def _num_local_gpus() -> int:
    """GPUs torch sees here; 0 without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count()
