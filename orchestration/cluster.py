"""Ray: the local machine or an existing cluster, and where each actor is placed. One placement group per sampler."""

from __future__ import annotations

import inspect
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig
from orchestration.placement import NodeRoom, least_used, shortfall
from orchestration.plan import ResourcePlan, bundle_of
from orchestration.signals import HANDLED
from quorum.deadline import run_within
from quorum.errors import Interrupted, ResourceError
from rollout import watchdog

OBJECT_STORE_BYTES = 2 << 30
"""Object store of a Ray started here: a step's groups are token ids and texts, not activations."""
END_SECONDS = 5.0
"""For the processes of a Ray started here to end by themselves after it was shut down."""
LOCAL_SPARE_CPUS = 256
"""Logical CPUs of a Ray started here beyond the plan's, for samplers that join later: they share the cores anyhow."""
REQUEST_SECONDS = 5.0
"""For Ray to note a request for nodes."""
HINT = "_soft_target_node_id"
"""Ray's own name, private, for a node that a placement group would best be on."""


@dataclass(frozen=True, slots=True)
class _Reserved:
    """A placement group of this run."""

    name: str
    group: Any
    target: str | None
    """Id of the node it was hinted to."""


@dataclass
class Cluster:
    """A connected Ray cluster and the placement groups of one run."""

    plan: ResourcePlan
    namespace: str
    is_local: bool
    start_seconds: float
    address: str = ""
    """HOST:PORT at which further clients reach this Ray, a local one too."""
    mark: str = ""
    """Carried by every process of a Ray started here, and by no other."""
    _watchdog: int | None = None
    _groups: dict[Any, _Reserved] = field(default_factory=dict)
    """By the placement group's id."""
    _has_requested: bool = False

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
                cluster.address = ray.get_runtime_context().gcs_address
            _hush()
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
                num_cpus=self.plan.total_cpus + LOCAL_SPARE_CPUS,
                num_gpus=self.plan.local_gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )

    def place(self, name: str, cpus: float, gpus: float) -> dict[str, Any]:
        """Reserve one bundle, wherever Ray puts it, wait for it, and return the Ray options of an actor that fills it.

        Raises:
            ResourceError: the cluster cannot hold the bundle within the start deadline.
        """
        group = self._ask(name, bundle_of(cpus, gpus), None)
        self.await_placed(group)
        return self.options(group, cpus, gpus)

    def reserve(self, name: str, cpus: float, gpus: float) -> Any:
        """Ask for one placement group of one bundle, if possible on a node with few of its kind ("sampler-3" is of the
        kind "sampler"). Does not wait: the group may stay pending, and is placed once a node has room, one that joins
        later too; when its node leaves, Ray places it anew."""
        bundle = bundle_of(cpus, gpus)
        target = None if self.is_local else least_used(bundle, nodes_of_cluster(), self._used_by(_kind(name)))
        return self._ask(name, bundle, None if target is None else target.node_id)

    def _ask(self, name: str, bundle: dict[str, float], target: str | None) -> Any:
        import ray

        # The only hint that binds nothing: Ray's public label selectors would hold the group to a node that left.
        hint = {HINT: target} if target and HINT in inspect.signature(ray.util.placement_group).parameters else {}
        group = ray.util.placement_group([bundle], strategy="STRICT_PACK", name=f"{self.namespace}-{name}", **hint)
        self._groups[group.id] = _Reserved(name, group, target)
        return group

    def _used_by(self, kind: str) -> Counter[str]:
        """Groups of a kind by node; those without a place count where they were hinted to."""
        import ray

        table = ray.util.placement_group_table()
        used: Counter[str] = Counter()
        for reserved in list(self._groups.values()):
            seen = table.get(reserved.group.id.hex(), {})
            node_id = seen["bundles_to_node_id"][0] if seen.get("state") == "CREATED" else reserved.target
            if node_id and _kind(reserved.name) == kind:
                used[node_id] += 1
        return used

    def await_placed(self, group: Any, seconds: float | None = None) -> None:
        """Wait until a reserved group has its place. One that gets none is released.

        Args:
            group: from `reserve`.
            seconds: how long; None is the start deadline.

        Raises:
            ResourceError: it has none in time; says what it needs and what the largest free bundle is.
        """
        limit = self.start_seconds if seconds is None else seconds
        if group.wait(timeout_seconds=limit):
            return
        name = self._groups[group.id].name if group.id in self._groups else "a released group"
        bundle = group.bundle_specs[0]
        why = shortfall(bundle, nodes_of_cluster())
        self.release(group)
        raise ResourceError(
            f"{name} could not be placed within {limit:.0f} s: {why}; free resources or add a node, or lower "
            "rollout.num_samplers, rollout.tensor_parallel_size, learner.num_ranks or cluster.cpus_per_sampler"
        )

    def release(self, group: Any) -> None:
        """Give a group's resources back; what still runs in it is killed. Idempotent."""
        import ray

        if self._groups.pop(group.id, None) is not None:
            ray.util.remove_placement_group(group)

    def request_nodes(self, bundles: Sequence[Mapping[str, float]]) -> str:
        """Have Ray's autoscaler keep enough nodes for all these bundles, those in use among them.

        A hint: without an autoscaler, or on a Ray started here, nothing happens. It holds until the next one, of
        whichever run on the cluster, and is withdrawn at `stop`.

        Returns:
            Why it could not be given, for the operator; empty when it was, or where it has no use.
        """
        if self.is_local:
            return ""
        self._has_requested = True
        try:
            run_within(REQUEST_SECONDS, lambda: _request_resources(bundles), "asking Ray for nodes")
        except Exception as exc:  # noqa: BLE001 - whatever Ray raises here ends no run
            return f"Ray's autoscaler was not asked for nodes: {_first_line(exc)}"
        return ""

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
                for reserved in list(self._groups.values()):
                    self.release(reserved.group)
                if self._has_requested:
                    self.request_nodes([])
            ray.shutdown()
        if self._watchdog is not None:
            watchdog.end_marked(self.mark, END_SECONDS)
            watchdog.dismiss(self._watchdog)
            self._watchdog = None


def _hush() -> None:
    """Keep Ray from printing its ten lines on every death: the run tells what died, and what became of it."""
    import ray._private.worker

    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None


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


def _kind(name: str) -> str:
    return name.rpartition("-")[0]


def nodes_of_cluster() -> list[NodeRoom]:
    """Living nodes of the connected cluster with what is free on each."""
    import ray
    from ray._private.state import available_resources_per_node  # Ray has no public name for it

    free = available_resources_per_node()
    return [
        NodeRoom(node["NodeID"], node["NodeManagerAddress"], node["Resources"], free[node["NodeID"]])
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] in free
    ]


def _request_resources(bundles: Sequence[Mapping[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(bundle) for bundle in bundles])


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def on_this_node() -> Any:
    """Scheduling strategy for an actor that reads or writes the driver's run directory."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
