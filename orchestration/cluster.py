"""Ray: the local machine or an existing cluster, and where each actor is placed. One placement group per sampler."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from orchestration.plan import ResourcePlan
from orchestration.signals import HANDLED
from quorum.errors import Interrupted, ResourceError
from rollout import watchdog

OBJECT_STORE_BYTES = 2 << 30
"""Object store of a Ray started here: a step's groups are token ids and texts, not activations."""
END_SECONDS = 5.0
"""For the processes of a Ray started here to end by themselves after it was shut down."""


@dataclass
class Cluster:
    """A connected Ray cluster and the placement groups of one run."""

    plan: ResourcePlan
    namespace: str
    is_local: bool
    start_seconds: float
    mark: str = ""
    """Carried by every process of a Ray started here, and by no other."""
    _watchdog: int | None = None
    _groups: list[Any] = field(default_factory=list)

    @classmethod
    def start(cls, config: RunConfig, plan: ResourcePlan, namespace: str) -> Cluster:
        """Start Ray on this machine, or connect to `cluster.address`. Raises ResourceError."""
        # A call after Ray was left is an error, and starts no other Ray.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        is_local = config.cluster.address == "local"
        common = {"namespace": namespace, "log_to_driver": False, "logging_level": "ERROR"}
        cluster = cls(plan, namespace, is_local, config.deadlines.start_seconds)
        try:
            with _own_signal_handlers():
                if is_local:
                    cluster._start_here(common)
                else:
                    ray.init(address=config.cluster.address, **common)
        except BaseException as exc:
            cluster.stop()
            if isinstance(exc, Interrupted) or not isinstance(exc, Exception):
                raise
            # Ray raises bare Exception when a node does not come up.
            where = "on this machine" if is_local else f"at {config.cluster.address}"
            raise ResourceError(f"no Ray cluster {where}: {_first_line(exc)}; see `quorum doctor`") from exc
        return cluster

    def _start_here(self, common: dict[str, Any]) -> None:
        """Start Ray on this machine, all its processes marked, and a watchdog that outlives the driver."""
        import ray

        self.mark = watchdog.new_mark("run")
        self._watchdog = watchdog.start(self.mark)
        with watchdog.marking(self.mark):
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                num_cpus=self.plan.total_cpus,
                num_gpus=self.plan.local_gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )

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
        """Give the placement groups back and disconnect; a Ray started here ends with all its processes. Idempotent."""
        import ray

        if ray.is_initialized():
            if not self.is_local:
                for group in self._groups:
                    ray.util.remove_placement_group(group)
            ray.shutdown()
        if self._watchdog is not None:
            watchdog.end_marked(self.mark, END_SECONDS)
            watchdog.stop(self._watchdog)
            self._watchdog = None


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM, in Python and below it, when it starts: ours come back afterwards.

    A signal that comes meanwhile waits until then: parts of Ray's start would log and drop what our handlers raise.
    Ray's own handler exits with the signal's number; that one is ours all the same.
    """
    ours = {signum: signal.getsignal(signum) for signum in HANDLED}
    came: list[int] = []
    for signum in HANDLED:
        signal.signal(signum, lambda number, frame: came.append(number))
    try:
        yield
    except SystemExit as exc:
        if exc.code not in HANDLED:
            raise
        raise Interrupted(int(exc.code)) from exc
    finally:
        for signum, handler in ours.items():
            signal.signal(signum, handler)
    if came:
        signal.raise_signal(came[0])


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def on_this_node() -> Any:
    """Scheduling strategy for an actor that reads or writes the driver's run directory."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
