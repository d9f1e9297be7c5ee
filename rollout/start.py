"""Sampler actors from nothing to ready: created together, watched under one deadline, named when they fail."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quorum.errors import ResourceError
from rollout.ray_errors import translate
from rollout.sampler import Sampler
from rollout.settings import SamplerInfo, SamplerSettings

_MAX_CONCURRENCY = 10_000
"""Calls one actor runs at a time: all its groups, and probes besides."""


def start_actors(
    settings: Sequence[SamplerSettings],
    actor_options: Sequence[Mapping[str, Any]],
    namespace: str | None,
    start_seconds: float,
) -> list[tuple[Any, SamplerInfo]]:
    """Start one actor per sampler and wait until every engine is up.

    Returns:
        [len(settings)] (actor, info), in order.

    Raises:
        ResourceError: names the sampler; says what an actor that could not be placed needs and what the cluster
            has, or why an engine did not come up. Every actor is killed again.
    """
    import ray

    actors: list[Any] = []
    driver = (ray.get_runtime_context().get_node_id(), os.getpid())
    try:
        for one, options in zip(settings, actor_options, strict=True):
            name = {} if namespace is None else {"name": one.sampler_id, "namespace": namespace}
            remote = ray.remote(Sampler).options(
                max_concurrency=_MAX_CONCURRENCY, max_restarts=0, max_task_retries=0, **name, **options
            )
            actors.append(remote.remote(replace(one, driver=driver)))
        return list(zip(actors, _await_ready(settings, actors, actor_options, start_seconds), strict=True))
    except BaseException:
        for actor in actors:
            ray.kill(actor)
        raise


def _await_ready(
    settings: Sequence[SamplerSettings], actors: list[Any], options: Sequence[Mapping[str, Any]], start_seconds: float
) -> list[SamplerInfo]:
    import ray

    placed = [actor.__ray_ready__.remote() for actor in actors]
    starts = [actor.start.remote() for actor in actors]
    deadline = time.monotonic() + start_seconds
    infos: dict[int, SamplerInfo] = {}
    while len(infos) < len(starts):
        pending = [ref for i, ref in enumerate(starts) if i not in infos]
        ready, _ = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = [i for i in range(len(starts)) if i not in infos]
            raise ResourceError(
                "; ".join(_late_reason(settings[i].sampler_id, placed[i], options[i], start_seconds) for i in late)
            )
        index = starts.index(ready[0])
        try:
            infos[index] = ray.get(ready[0], timeout=max(1.0, deadline - time.monotonic()))
        except ray.exceptions.RayError as exc:
            error = translate(exc, f"sampler {settings[index].sampler_id}, while starting,", ResourceError)
            raise ResourceError(str(error)) from exc
    return [infos[i] for i in range(len(starts))]


def _late_reason(sampler_id: str, placed_ref: Any, options: Mapping[str, Any], start_seconds: float) -> str:
    import ray

    if ray.wait([placed_ref], timeout=0)[0]:
        return (
            f"sampler {sampler_id}: its engine was not ready within {start_seconds:g} s (deadlines.start_seconds); "
            "raise it if the model is that slow to load"
        )
    needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)} | options.get("resources", {})
    has = {name: value for name, value in ray.cluster_resources().items() if name in needs}
    free = {name: value for name, value in ray.available_resources().items() if name in needs}
    return (
        f"sampler {sampler_id} could not be placed within {start_seconds:g} s: it needs "
        f"{_amounts(needs)}; the cluster has {_amounts(has)}, free {_amounts(free)}; free resources or lower "
        "rollout.num_samplers"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} {name}" for name, value in resources.items() if value) or "nothing"
