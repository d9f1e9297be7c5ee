"""A sampler actor from nothing to ready: created without waiting, watched under a deadline, named when it fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quorum.errors import ResourceError
from rollout.berths import Berths
from rollout.ray_errors import translate
from rollout.sampler import Sampler
from rollout.settings import SamplerSettings

_MAX_CONCURRENCY = 10_000
"""Calls one actor runs at a time: all its groups, and probes besides."""


@dataclass(frozen=True, slots=True)
class Start:
    """A sampler that is starting."""

    actor: Any
    placed_ref: Any
    info_ref: Any
    """To its SamplerInfo."""


def begin_start(settings: SamplerSettings, options: Mapping[str, Any], namespace: str | None) -> Start:
    """Create the actor and have it start its engine; waits for nothing."""
    import ray

    driver = (ray.get_runtime_context().get_node_id(), os.getpid())
    name = {} if namespace is None else {"name": settings.sampler_id, "namespace": namespace}
    remote = ray.remote(Sampler).options(
        max_concurrency=_MAX_CONCURRENCY, max_restarts=0, max_task_retries=0, **name, **options
    )
    actor = remote.remote(replace(settings, driver=driver))
    return Start(actor, actor.__ray_ready__.remote(), actor.start.remote())


def late_start(start: Start, settings: SamplerSettings, slot: int, berths: Berths, seconds: float) -> ResourceError:
    """The error of a sampler that was not ready in time."""
    import ray

    if ray.wait([start.placed_ref], timeout=0)[0]:
        return ResourceError(
            f"sampler {settings.sampler_id}: its engine was not ready within {seconds:g} s (deadlines.start_seconds); "
            "raise it if the model is that slow to load"
        )
    return ResourceError(
        f"sampler {settings.sampler_id} could not be placed within {seconds:g} s: {berths.why_unplaced(slot)}; free "
        "resources or lower rollout.num_samplers"
    )


def failed_start(error: BaseException, sampler_id: str) -> ResourceError:
    """The error of a sampler whose start raised."""
    return ResourceError(str(translate(error, f"sampler {sampler_id}, while starting,", ResourceError)))
