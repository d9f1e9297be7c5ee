"""`quorum bench scale`: what one controller bears. 1 to 1,024 simulated samplers on one machine, each making one group
of 64 KB per second.

Groups per second are counted at the pool's end. Controller CPU is that of the driver's process with Ray's threads in
it, over the same seconds: everything it does from a request to a finished group. Samplers have two groups each, so that
they need not wait for the next one. Up to REAL_SAMPLERS they are real sampler actors; beyond they share two actors,
which take their part of this machine's cores: what they cost is reported beside the controller's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from benchmarks.results import BenchResult, Median
from benchmarks.simulated_samplers import (
    hosted_pool,
    local_ray,
    make_request,
    real_pool,
    rollout_section,
    sampler_settings,
)
from rollout.pool import SamplerPool

SIZES = (1, 4, 16, 64, 256, 1024)
REAL_SAMPLERS = 4
"""So many have an actor each."""
GROUP_BYTES = 64 * 1024
K = 4
GROUPS_AT_ONCE = 2
WAITING_SHARE = 0.5
"""Groups that wait in the driver, per sampler."""
WARM_UP_SECONDS, WINDOW_SECONDS = 4.0, 5.0
LONG_WINDOW_SECONDS = 20.0
"""Where a few groups come per second, one more or less would be a tenth of them."""
PUMP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Window:
    """One measurement."""

    seconds: float
    num_groups: int
    cpu_seconds: float
    """Of the driver's process."""

    @property
    def groups_per_second(self) -> float:
        return self.num_groups / self.seconds

    @property
    def milliseconds_per_group(self) -> float:
        return 1e3 * self.cpu_seconds / max(1, self.num_groups)


def run_scale(repeats: int, seed: int, sizes: Sequence[int] = SIZES) -> BenchResult:
    """Measure."""
    windows: dict[int, list[Window]] = {}
    with local_ray():
        for num_samplers in sizes:
            with _pool(num_samplers) as pool:
                windows[num_samplers] = _measure(pool, num_samplers, repeats, seed)
            print(_line(num_samplers, windows[num_samplers]), flush=True)
    return BenchResult("scale", figures(windows), seed=seed, repeats=repeats)


def figures(windows: dict[int, list[Window]]) -> dict[str, object]:
    """Medians over windows, by number of samplers."""
    rates = {n: Median(w.groups_per_second for w in found) for n, found in windows.items()}
    costs = {n: Median(w.milliseconds_per_group for w in found) for n, found in windows.items()}
    values: dict[str, object] = {}
    for n in windows:
        values[f"groups_per_second_{n}"] = rates[n]
        values[f"controller_ms_per_group_at_{n}"] = costs[n]
        values[f"linear_share_{n}"] = rates[n] / (n * rates[min(rates)] / min(rates))
    return values | {"controller_ms_per_group": costs[max(costs)]}


@contextmanager
def _pool(num_samplers: int) -> Iterator[SamplerPool]:
    # K completions at a time that take a second each: one group per second, the next begins as it ends.
    options = {"seconds_per_group": 1.0, "max_running": K, "payload_bytes": GROUP_BYTES}
    settings = sampler_settings([f"sampler-{i}" for i in range(num_samplers)], options)
    make = real_pool if num_samplers <= REAL_SAMPLERS else hosted_pool
    with make(settings, rollout_section(GROUPS_AT_ONCE, K)) as pool:
        yield pool


def _measure(pool: SamplerPool, num_samplers: int, repeats: int, seed: int) -> list[Window]:
    ids = count()
    for _ in range(num_samplers * GROUPS_AT_ONCE + max(1, int(num_samplers * WAITING_SHARE))):
        pool.submit(make_request(next(ids), K, seed))
    _keep_busy(pool, ids, seed, WARM_UP_SECONDS)
    window = LONG_WINDOW_SECONDS if num_samplers < 16 else WINDOW_SECONDS
    return [_keep_busy(pool, ids, seed, window) for _ in range(repeats)]


def _keep_busy(pool: SamplerPool, ids: Iterator[int], seed: int, seconds: float) -> Window:
    """Hand out a new group for every one that finishes."""
    began, cpu = time.monotonic(), time.process_time()
    num_groups = 0
    while (left := began + seconds - time.monotonic()) > 0:
        finished = pool.pump(min(left, PUMP_SECONDS))
        num_groups += sum(group.receipt is not None for group in finished)
        for _ in finished:
            pool.submit(make_request(next(ids), K, seed))
    return Window(time.monotonic() - began, num_groups, time.process_time() - cpu)


def _line(num_samplers: int, windows: Sequence[Window]) -> str:
    rate = statistics.median(window.groups_per_second for window in windows)
    cost = statistics.median(window.milliseconds_per_group for window in windows)
    return f"{num_samplers} samplers: {rate:.1f} groups/s, {cost:.2f} ms of controller CPU per group"
