"""Ray: the local machine or an existing cluster, and where each actor is placed. One placement group per sampler."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from orchestration.plan import ResourcePlan
from quorum.errors import ResourceError

OBJECT_STORE_BYTES = 2 << 30
"""Object store of a Ray started here: a step's groups are token ids and texts, not activations."""


@dataclass
class Cluster:
    """A connected Ray cluster and the placement groups of one run."""

    plan: ResourcePlan
    namespace: str
    is_local: bool
    start_seconds: float
    _groups: list[Any] = field(default_factory=list)

    @classmethod
    def start(cls, config: RunConfig, plan: ResourcePlan, namespace: str) -> Cluster:
        """Start Ray on this machine, or connect to `cluster.address`. Raises ResourceError."""
        import ray

        is_local = config.cluster.address == "local"
        # Ray writes its usage report and a dashboard by default: neither serves a run on one machine.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        common = {"namespace": namespace, "log_to_driver": False, "logging_level": "ERROR"}
        try:
            if is_local:
                ray.init(
                    _node_ip_address="127.0.0.1",
                    num_cpus=plan.total_cpus,
                    num_gpus=plan.local_gpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **common,
                )
            else:
                ray.init(address=config.cluster.address, **common)
        except Exception as exc:  # Ray raises bare Exception when a node does not come up.
            where = "on this machine" if is_local else f"at {config.cluster.address}"
            raise ResourceError(f"no Ray cluster {where}: {_first_line(exc)}; see `quorum doctor`") from exc
        cluster = cls(plan, namespace, is_local, config.deadlines.start_seconds)
        if not is_local:
            plan.check_cluster(ray.cluster_resources())
        return cluster

    def place(self, name: str, cpus: float, gpus: float) -> dict[str, Any]:
        """Reserve one bundle and return the Ray options of an actor that fills it.

        Raises:
            ResourceError: the cluster cannot hold the bundle within the start deadline.
        """
        return self.options(self.reserve(name, cpus, gpus), cpus, gpus)

    def reserve(self, name: str, cpus: float, gpus: float) -> Any:
        """One placement group of one bundle. Raises ResourceError when it stays pending."""
        import ray

        bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        group = ray.util.placement_group([bundle], strategy="STRICT_PACK", name=f"{self.namespace}-{name}")
        self._groups.append(group)
        started = time.monotonic()
        if not group.wait(timeout_seconds=self.start_seconds):
            free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
            raise ResourceError(
                f"{name} could not be placed within {time.monotonic() - started:.0f} s: it needs {bundle} on one node, "
                f"free in the whole cluster are {free}; free resources, or lower rollout.num_samplers, "
                "learner.num_ranks or rollout.tensor_parallel_size"
            )
        return group

    def options(self, group: Any, cpus: float, gpus: float) -> dict[str, Any]:
        """Ray options of an actor inside a reserved bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=0)
        return {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": strategy}

    def stop(self) -> None:
        """Give the placement groups back and disconnect; a Ray started here ends with all its processes."""
        import ray

        if not ray.is_initialized():
            return
        if not self.is_local:
            for group in self._groups:
                ray.util.remove_placement_group(group)
        ray.shutdown()


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
