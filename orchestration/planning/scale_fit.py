"""The driver's limits, fitted to what `quorum bench scale` measured with simulated samplers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quorum.errors import ConfigError

PUBLISHED_RATES = {1: 1.0, 256: 256.0, 1024: 938.0}
"""Samplers -> groups per second, from the README's figures of `quorum bench scale --repeats 3`."""
PUBLISHED_COSTS = {1024: 0.84}
"""Samplers -> milliseconds of the driver's CPU per group, from the same."""
LINEAR = 0.97
"""Below this share of samplers x rate of one the driver's machine counts as full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFit:
    """groups/s(n) = min(n * rate, cores * 1000 / (base + slope * n))."""

    rate: float
    """Groups per second of one sampler in the benchmark."""
    base: float
    """Milliseconds of the driver's CPU per group."""
    slope: float
    """More of them per sampler."""
    cores: float
    """Of the processor that the driver had where it was full; 1 where it never was: Python runs on one."""

    def milliseconds(self, num_samplers: int) -> float:
        """Of the driver's CPU per group."""
        return self.base + self.slope * num_samplers

    def limit(self, num_samplers: int, *, cores: float | None = None) -> float:
        """Groups per second that the driver bears; with `cores` of its own in place of the fitted share."""
        return 1e3 * (self.cores if cores is None else cores) / self.milliseconds(num_samplers)

    def groups_per_second(self, num_samplers: int) -> float:
        """What the benchmark would measure."""
        return min(num_samplers * self.rate, self.limit(num_samplers))


def fit_driver(rates: Mapping[int, float], costs: Mapping[int, float]) -> DriverFit:
    """Fit to measured points.

    The rate is that of the fewest samplers; cost is a straight line through the costs by least squares, level where
    there is one point or where the line would fall; the driver's share of a core is what it used where throughput was
    no longer linear.

    Args:
        rates: samplers -> groups per second.
        costs: samplers -> milliseconds of CPU per group; those of few samplers, who leave the driver idle, cost more
            per group and are left out: only sizes of 64 or more count where there are any.
    """
    fewest = min(rates)
    rate = rates[fewest] / fewest
    chosen = {n: cost for n, cost in costs.items() if n >= 64} or dict(costs)
    base, slope = _line(chosen)
    full = [n for n, found in rates.items() if found < LINEAR * n * rate]
    cores = max((rates[n] * (base + slope * n) / 1e3 for n in full), default=1.0)
    return DriverFit(rate=rate, base=base, slope=slope, cores=cores)


def _line(points: Mapping[int, float]) -> tuple[float, float]:
    """(value at 0, slope) by least squares, never falling."""
    mean_x = sum(points) / len(points)
    mean_y = sum(points.values()) / len(points)
    spread = sum((x - mean_x) ** 2 for x in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points.items()) / spread if spread else 0.0
    slope = max(0.0, slope)
    return mean_y - slope * mean_x, slope


def published() -> DriverFit:
    """Of the README's figures."""
    return fit_driver(PUBLISHED_RATES, PUBLISHED_COSTS)


def fit_of_file(path: Path) -> DriverFit:
    """From a file that holds what `quorum bench scale` printed, or its RESULT line alone.

    Raises:
        ConfigError: there is no such line in it.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("RESULT ")]
        values = json.loads(lines[-1].removeprefix("RESULT "))
    except (OSError, IndexError, ValueError) as error:
        raise ConfigError(f"--fit {path}: {error}; expected the output of `quorum bench scale`") from error
    rates = _numbered(values, r"groups_per_second_(\d+)")
    costs = _numbered(values, r"controller_ms_per_group_at_(\d+)")
    if not rates or not costs:
        raise ConfigError(f"--fit {path}: its RESULT line is not of `quorum bench scale`")
    return fit_driver(rates, costs)


def _numbered(values: Mapping[str, object], pattern: str) -> dict[int, float]:
    matches = {re.fullmatch(pattern, name): value for name, value in values.items()}
    return {int(match[1]): float(str(value)) for match, value in matches.items() if match}
