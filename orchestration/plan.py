"""What a run needs, worked out and checked before anything starts: devices, resources, model arithmetic."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from configs.schema import RunConfig
from quorum.errors import ResourceError

FEWER = "lower rollout.num_samplers, rollout.tensor_parallel_size or learner.num_ranks"
FEWER_OF_FLEET = "lower num_samplers or tensor_parallel_size in rollout.fleet, or learner.num_ranks"


@dataclass(frozen=True, slots=True)
class SamplerPlan:
    """What one sampler is and takes."""

    device: str
    """cpu or cuda"""
    tensor_parallel_size: int
    cpus: int
    """Of all its workers together."""
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        return bundle_of(self.cpus, self.gpus)

    def describe(self) -> str:
        workers = f", {self.tensor_parallel_size} workers" if self.tensor_parallel_size > 1 else ""
        return f"({self.cpus} CPU, {self.gpus:g} GPU{workers})"


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """Actors of a run and what each of them takes."""

    device: str
    """cpu or cuda"""
    num_samplers: int
    num_ranks: int
    num_replicas: int
    cpus_per_sampler: int
    """All workers of one sampler together, where it is of no kind of a fleet."""
    cpus_per_rank: int
    gpus_per_sampler: float
    gpus_per_rank: float
    colocate: bool
    local_gpus: int
    """GPUs a locally started Ray is given."""
    num_teachers: int = 0
    """Samplers of a teacher, each with cpus_per_sampler CPUs."""
    gpus_per_teacher: float = 0
    tensor_parallel_size: int = 1
    """Workers of a sampler that is of no kind of a fleet."""
    fleet: tuple[SamplerPlan, ...] = ()
    """[num_samplers] where there are several kinds; empty: all are alike."""

    @property
    def samplers(self) -> tuple[SamplerPlan, ...]:
        """[num_samplers] those that the run starts with, by index."""
        return tuple(self.sampler(index) for index in range(self.num_samplers))

    def sampler(self, index: int) -> SamplerPlan:
        """Of a sampler by its index. Those that a live run adds beyond its fleet are of the fleet's first kind."""
        if self.fleet:
            return self.fleet[index] if index < len(self.fleet) else self.fleet[0]
        return SamplerPlan(self.device, self.tensor_parallel_size, self.cpus_per_sampler, self.gpus_per_sampler)

    def bundles(self, num_samplers: int | None = None) -> list[dict[str, float]]:
        """One bundle per actor, or per colocated pair, as if the run had so many samplers (None: as it starts)."""
        wanted = self.num_samplers if num_samplers is None else num_samplers
        others = [bundle_of(self.cpus_per_sampler, self.gpus_per_teacher)] * self.num_teachers
        others += [bundle_of(1, 0)] * self.num_replicas
        if self.colocate:
            pair = bundle_of(self.cpus_per_sampler + self.cpus_per_rank, 1)
            return [pair] * max(wanted, self.num_ranks) + others
        ranks = [bundle_of(self.cpus_per_rank, self.gpus_per_rank)] * self.num_ranks
        return [self.sampler(index).bundle for index in range(wanted)] + ranks + others

    @property
    def total_cpus(self) -> int:
        """Logical CPUs; a local Ray is started with as many, whatever the machine has."""
        samplers = sum(sampler.cpus for sampler in self.samplers) + self.num_teachers * self.cpus_per_sampler
        return samplers + self.num_ranks * self.cpus_per_rank + self.num_replicas

    @property
    def total_gpus(self) -> int:
        if self.device == "cpu":
            return 0
        teachers = round(self.num_teachers * self.gpus_per_teacher)
        if self.colocate:
            return max(self.num_samplers, self.num_ranks) + teachers
        samplers = sum(sampler.gpus for sampler in self.samplers)
        return round(samplers + self.num_ranks * self.gpus_per_rank) + teachers

    @property
    def fewer(self) -> str:
        """What to lower when it is too much."""
        return FEWER_OF_FLEET if self.fleet else FEWER

    def _kinds(self) -> list[tuple[int, SamplerPlan]]:
        """(how many, what) of every kind of sampler, in order."""
        return [(count, kind) for kind, count in Counter(self.samplers).items()]

    def gpu_sentence(self) -> str:
        """The arithmetic of the GPUs, in words."""
        on_gpus = [(n, kind) for n, kind in self._kinds() if kind.gpus] or [(self.num_samplers, self.sampler(0))]
        parts = [f"{n} samplers of {kind.gpus:g} GPUs" for n, kind in on_gpus]
        parts += [f"{self.num_ranks} ranks"] if self.num_ranks else []
        parts += [f"{self.num_teachers} teachers of {self.gpus_per_teacher:g}"] if self.num_teachers else []
        return f"{' + '.join(parts)} need {self.total_gpus} GPUs"

    def check_cluster(self, resources: Mapping[str, float]) -> None:
        """Raise ResourceError when an existing cluster is too small in sum."""
        have_cpus, have_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if have_gpus < self.total_gpus:
            raise ResourceError(f"{self.gpu_sentence()}, the cluster has {have_gpus}; {self.fewer}")
        if have_cpus < self.total_cpus:
            samplers = " + ".join(f"{n} samplers of {kind.cpus} CPUs" for n, kind in self._kinds())
            raise ResourceError(
                f"{samplers or '0 samplers'} + {self.num_ranks} ranks of "
                f"{self.cpus_per_rank} + {self.num_teachers} teachers of {self.cpus_per_sampler} + "
                f"{self.num_replicas} voting replicas need {self.total_cpus} CPUs, "
                f"the cluster has {have_cpus}; lower the counts, or run locally with cluster.address=local"
            )

    def describe(self) -> list[str]:
        """Lines for --dry-run and the log."""
        cores = os.cpu_count() or 1
        lines = [f"device           {self.device}", *self._sampler_lines()]
        lines.append(f"learner ranks    {self.num_ranks} x ({self.cpus_per_rank} CPU, {self.gpus_per_rank:g} GPU)")
        if self.num_teachers:
            size = f"({self.cpus_per_sampler} CPU, {self.gpus_per_teacher:g} GPU)"
            lines.append(f"teachers         {self.num_teachers} x {size}")
        lines.append(f"voting replicas  {self.num_replicas} x (1 CPU)")
        lines.append(f"placement        {self._placement()}")
        lines.append(f"in all           {self.total_cpus} logical CPUs, {self.total_gpus} GPUs")
        if self.total_cpus > cores:
            lines.append(
                f"note             {self.total_cpus} logical CPUs share {cores} cores: in the strict schedule "
                "samplers and learner take turns"
            )
        return lines

    def _sampler_lines(self) -> list[str]:
        if not self.fleet:
            return [f"samplers         {self.num_samplers} x {self.sampler(0).describe()}"]
        mixed = len({kind.device for kind in self.fleet}) > 1
        return [
            f"samplers         {count} x {kind.describe()}{f' on {kind.device}' if mixed else ''}"
            for count, kind in self._kinds()
        ]

    def _placement(self) -> str:
        if self.colocate:
            pairs = max(self.num_samplers, self.num_ranks)
            return f"{pairs} placement groups, sampler and rank i sharing one GPU of group i"
        groups = self.num_samplers + self.num_teachers + self.num_ranks
        return f"{groups} placement groups, one per sampler and rank, each whole on one node"


def bundle_of(cpus: float, gpus: float) -> dict[str, float]:
    """Resources of one bundle by Ray's names."""
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


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
        num_samplers=config.rollout.num_started if with_samplers else 0,
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
        tensor_parallel_size=workers,
        fleet=_fleet(config, device) if with_samplers else (),
    )
    if colocate:
        _check_pairs(plan)
        if config.rollout.autoscale is not None:
            raise ResourceError(
                "cluster.colocate has as many samplers as ranks, and rollout.autoscale would change their number; "
                "leave one of the two out"
            )
    if cluster is not None:
        plan.check_cluster(cluster)
    elif plan.total_gpus > local_gpus:
        raise ResourceError(f"{plan.gpu_sentence()}, this machine has {local_gpus}; {plan.fewer}")
    return plan


def _fleet(config: RunConfig, device: str) -> tuple[SamplerPlan, ...]:
    """Every sampler of every kind, in order. Raises ResourceError for a kind whose device the run does not have."""
    samplers: list[SamplerPlan] = []
    for index, kind in enumerate(config.rollout.fleet):
        wanted = device if kind.device == "auto" else kind.device
        if wanted == "cuda" and device == "cpu":
            where = "there is no GPU" if config.cluster.device == "auto" else "cluster.device is cpu"
            raise ResourceError(
                f"rollout.fleet.{index} ({kind.num_samplers} samplers) is for device cuda, and {where}; set its device "
                "to auto or cpu, or let the run have GPUs (cluster.device, cluster.address)"
            )
        workers = kind.tensor_parallel_size
        one = SamplerPlan(
            device=wanted,
            tensor_parallel_size=workers,
            cpus=config.cluster.cpus_per_sampler * workers,
            gpus=workers if wanted == "cuda" else 0,
        )
        samplers += [one] * kind.num_samplers
    return tuple(samplers)


def _check_pairs(plan: ResourcePlan) -> None:
    """Sampler i and rank i share a GPU: as many of one as of the other, each of one worker. Raises ResourceError."""
    if plan.fleet:
        raise ResourceError(
            "cluster.colocate pairs samplers that are all alike with ranks; leave rollout.fleet empty, or set "
            "cluster.colocate=false"
        )
    counts_fit = not plan.num_ranks or plan.num_samplers == plan.num_ranks
    if not counts_fit or plan.tensor_parallel_size != 1:
        raise ResourceError(
            f"cluster.colocate shares one GPU between sampler i and rank i, but there are {plan.num_samplers} samplers "
            f"of {plan.tensor_parallel_size} GPUs and {plan.num_ranks} ranks; set rollout.num_samplers equal to "
            "learner.num_ranks and rollout.tensor_parallel_size to 1, or give them GPUs of their own with "
            "cluster.colocate=false"
        )


def _num_local_gpus() -> int:
    """GPUs torch sees here; 0 without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count()
