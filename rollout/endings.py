"""The end of a sampler's processes, whatever state they are in: one that is stopped heeds no order but a kill."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from rollout.settings import SamplerInfo


def kill_processes(info: SamplerInfo) -> None:
    """SIGKILL every process of a sampler on this machine that is still there. Spared are the watchdog, which sweeps
    up after them, and numbers that others took meanwhile."""
    import psutil

    for pid in set(info.pids) - {info.watchdog_pid}:
        with contextlib.suppress(psutil.Error, OSError):
            if psutil.Process(pid).create_time() <= info.ready_at:
                os.kill(pid, signal.SIGKILL)


def end(actor: Any, info: SamplerInfo | None) -> None:
    """Kill a sampler's actor, and its processes where it runs. Waits for nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.kill(actor)
    if info is None:
        return
    if info.node_id == ray.get_runtime_context().get_node_id():
        kill_processes(info)
        return
    there = NodeAffinitySchedulingStrategy(node_id=info.node_id, soft=False)
    ray.remote(kill_processes).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(info)
