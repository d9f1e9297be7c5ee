"""The actors of a run: started side by side under one deadline (a rank after the sampler that it shares a GPU with),
stopped together, every process id known."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from learner.group import LearnerGroup
from orchestration.cluster import Cluster, nodes_of_cluster
from orchestration.fleet import sampler_fleet, teacher_fleet
from orchestration.labels import Teacher
from orchestration.plan import ResourcePlan
from orchestration.probe import check_nodes
from orchestration.start_times import ACTORS, NODES, RAY, StartTimes
from quorum.errors import ResourceError
from quorum.types import Role
from rollout.pool import SamplerPool
from rollout.settings import NO_VERSION
from voting.service import VotingService

ABANDON_SECONDS = 20.0
"""For the other parts to give up after one failed to start."""
OWN_DEADLINE_MARGIN = 30.0
"""Parts keep their own deadline and say who is late; this only bounds a part that does not."""


@dataclass
class Stack:
    """Everything that runs beside the driver. `learner` is None where nothing is learned, `pool` where nothing is
    generated."""

    config: RunConfig
    plan: ResourcePlan
    cluster: Cluster
    pool: SamplerPool | None
    voting: VotingService
    learner: LearnerGroup | None
    teachers: SamplerPool | None
    rank_options: list[dict[str, Any]] = field(default_factory=list)
    """Where each learner rank is placed."""
    keeps_average: bool = False
    """Whether the learner keeps a moving average for a teacher."""

    @classmethod
    def start(
        cls,
        config: RunConfig,
        plan: ResourcePlan,
        namespace: str,
        *,
        with_learner: bool,
        initial_version: int = NO_VERSION,
        teacher: Teacher | None = None,
        checkpoint: Path | None = None,
        times: StartTimes | None = None,
    ) -> Stack:
        """Start Ray, then all actors side by side.

        Args:
            config: of the run.
            plan: how many of each there are.
            namespace: in which the actors are named.
            with_learner: False for an evaluation.
            initial_version: that the samplers hold.
            teacher: whose samplers the plan has.
            checkpoint: that the ranks load while the samplers start; None for the base model.
            times: is told how long Ray and each part took.

        Raises:
            QuorumError: of the first part that failed, with everything stopped again.
        """
        config = with_absolute_model(config)
        times = times or StartTimes.over()
        cluster = Cluster.start(config, plan, namespace)
        times.mark(RAY)
        keeps_average = teacher is not None and teacher.is_average
        parts: dict[str, Future[Any]] = {}
        executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="start")
        try:
            if not cluster.is_local:
                check_nodes(config, plan, nodes_of_cluster())
                times.mark(NODES)
            began = time.monotonic()
            shared, rank_options = _placements(cluster, plan)
            if plan.num_samplers:
                parts["samplers"] = executor.submit(_start_samplers, config, plan, cluster, initial_version, shared)
            if plan.num_teachers and teacher is not None:
                parts["teachers"] = executor.submit(_start_teachers, config, plan, cluster, teacher)
            parts["voting"] = executor.submit(
                VotingService.start,
                config.voting,
                plugins=config.run.plugins,
                deadlines=config.deadlines,
                actor_options={"num_cpus": 1},
                namespace=namespace,
            )
            if with_learner:
                # vLLM measures what is free on its GPU while it starts, and must find that nobody else takes or frees.
                before = parts.get("samplers") if plan.colocate else None
                learner = (config, plan.device, rank_options, namespace, keeps_average, checkpoint)
                parts["learner"] = executor.submit(_start_after, before, config.deadlines.start_seconds, *learner)
            for name, future in parts.items():
                future.add_done_callback(_stopwatch(times.parts, name, began))
            turns = 2 if plan.colocate and with_learner else 1  # of deadlines.start_seconds each
            started = _all_or_first_error(parts, turns * config.deadlines.start_seconds)
        except BaseException:
            _abandon(list(parts.values()))
            cluster.stop()
            raise
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        times.mark(ACTORS)
        times.steps |= _steps(started, times.parts)
        return cls(
            config=config,
            plan=plan,
            cluster=cluster,
            pool=started.get("samplers"),
            voting=started["voting"],
            learner=started.get("learner"),
            teachers=started.get("teachers"),
            rank_options=rank_options,
            keeps_average=keeps_average,
        )

    def restart_learner(self, config: RunConfig, namespace: str, checkpoint: Path | None) -> None:
        """End all ranks and start them again in their places; samplers and voters go on.

        Args:
            config: may differ from the one before in operational fields of `learner`.
            namespace: in which no rank was named before.
            checkpoint: to load; None for the base model.

        Raises:
            ResourceError, DataError, LearnerError: they did not come up; see `LearnerGroup.start` and `load`.
        """
        assert self.learner is not None
        self.learner.kill()
        self.learner.stop()  # kills nobody any more: waits until the processes are gone and their memory is free
        self.learner = _start_learner(
            with_absolute_model(config),
            self.plan.device,
            self.rank_options,
            namespace,
            self.keeps_average,
            checkpoint,
        )

    @property
    def pools(self) -> list[SamplerPool]:
        """Policy's samplers, then the teacher's."""
        return [pool for pool in (self.pool, self.teachers) if pool is not None]

    def pool_of(self, role: Role) -> SamplerPool:
        """Who draws groups of a role."""
        pool = self.teachers if role is Role.TEACHER and self.teachers is not None else self.pool
        assert pool is not None, f"a {role.value} group was asked for, and nothing generates"
        return pool

    def pids(self) -> list[int]:
        """Process ids of all actors and their engines on this machine's cluster."""
        found = [pid for pool in self.pools for sampler in pool.samplers for pid in sampler.pids]
        found += self.voting.pids
        if self.learner is not None:
            found += [pid for _, pid in self.learner.describe()]
        return found

    def stop(self) -> None:
        """End all actors within deadlines.stop_seconds, then the cluster, which kills what is left of a local one."""
        deadline = self.config.deadlines.stop_seconds
        executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="stop")
        stops = [executor.submit(pool.stop, deadline) for pool in self.pools]
        stops.append(executor.submit(self.voting.stop, deadline))
        if self.learner is not None:
            stops.append(executor.submit(self.learner.stop, deadline))
        done, _ = wait(stops, timeout=deadline + 5)
        executor.shutdown(wait=False)
        self.cluster.stop()
        for future in done:
            future.result(timeout=0)


def _start_samplers(
    config: RunConfig, plan: ResourcePlan, cluster: Cluster, initial_version: int, shared: dict[int, Any] | None
) -> SamplerPool:
    return SamplerPool.start(
        sampler_fleet(config, plan, cluster, initial_version, shared),
        num_samplers=plan.num_samplers,
        section=config.rollout,
        deadlines=config.deadlines,
        namespace=cluster.namespace,
    )


def _start_teachers(config: RunConfig, plan: ResourcePlan, cluster: Cluster, teacher: Teacher) -> SamplerPool:
    return SamplerPool.start(
        teacher_fleet(config, plan, cluster, teacher),
        num_samplers=plan.num_teachers,
        section=config.rollout.model_copy(update={"min_samplers": 1}),
        deadlines=config.deadlines,
        namespace=cluster.namespace,
    )


def _start_after(before: Future[Any] | None, seconds: float, *learner: Any) -> LearnerGroup:
    """Start the learner once another part, if there is one, has started; raises what that part raised."""
    if before is not None:
        before.result(timeout=seconds + OWN_DEADLINE_MARGIN)
    return _start_learner(*learner)


def _start_learner(
    config: RunConfig,
    device: str,
    options: list[dict[str, Any]],
    namespace: str,
    keeps_average: bool,
    checkpoint: Path | None,
) -> LearnerGroup:
    learner = LearnerGroup.start(
        config, device=device, actor_options=options, namespace=namespace, keeps_average=keeps_average
    )
    if checkpoint is not None:
        learner.load(str(checkpoint))
    return learner


def with_absolute_model(config: RunConfig) -> RunConfig:
    """The model as an absolute path: actors of an existing cluster do not start in the driver's directory."""
    if not Path(config.model.path).is_dir():
        return config
    path = str(Path(config.model.path).absolute())
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path})})


def _abandon(parts: list[Future[Any]]) -> None:
    """Kill the actors made so far until every part that waits for one has given up: only then may Ray be left."""
    import ray

    pending = set(parts)
    deadline = time.monotonic() + ABANDON_SECONDS
    while pending and time.monotonic() < deadline:
        for name in ray.util.list_named_actors():
            with contextlib.suppress(ValueError, ray.exceptions.RayError):  # it is gone already
                ray.kill(ray.get_actor(name))
        _, pending = wait(pending, timeout=0.5)


def _stopwatch(seconds: dict[str, float], name: str, began: float) -> Any:
    def note(_: Future[Any]) -> None:
        seconds[name] = time.monotonic() - began

    return note


def _steps(started: dict[str, Any], parts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What the slowest actor of each part did."""
    steps = {}
    for name, part in started.items():
        if isinstance(part, SamplerPool):
            engine = max(s.info.start_seconds for s in part.samplers if s.info is not None)
            steps[name] = {"process": parts.get(name, engine) - engine, "engine": engine}
        if isinstance(part, LearnerGroup):
            steps[name] = part.start_seconds
    return steps


def _all_or_first_error(parts: dict[str, Future[Any]], deadline: float) -> dict[str, Any]:
    done, pending = wait(parts.values(), timeout=deadline + OWN_DEADLINE_MARGIN, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result(timeout=0)
    if pending:
        late = [name for name, future in parts.items() if future in pending]
        raise ResourceError(f"{', '.join(late)} did not start within {deadline:.0f} s (deadlines.start_seconds)")
    return {name: future.result(timeout=0) for name, future in parts.items()}


def _placements(cluster: Cluster, plan: ResourcePlan) -> tuple[dict[int, Any] | None, list[dict[str, Any]]]:
    """Placement groups that samplers share with ranks, by slot (None: they share none), and every rank's options."""
    if not plan.colocate:
        ranks = [cluster.place(f"rank-{i}", plan.cpus_per_rank, plan.gpus_per_rank) for i in range(plan.num_ranks)]
        return None, ranks
    shared, ranks = {}, []
    for i in range(plan.num_samplers):
        shared[i] = cluster.reserve(f"pair-{i}", plan.cpus_per_sampler + plan.cpus_per_rank, 1)
        ranks.append(cluster.options(shared[i], plan.cpus_per_rank, plan.gpus_per_rank))
    return shared, ranks[: plan.num_ranks]
