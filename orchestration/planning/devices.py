"""Accelerators by name: what their makers' data sheets say. Everything worked out from it is an estimate."""

from __future__ import annotations

from dataclasses import dataclass

from quorum.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator."""

    name: str
    memory_gb: float
    """10^9 bytes."""
    flops: float
    """Dense bfloat16 operations per second."""
    bandwidth: float
    """Bytes per second of its memory."""
    link: float
    """Bytes per second and direction to the other devices of the node."""


DEVICES = {
    "h100": Device(name="H100 SXM", memory_gb=80, flops=989e12, bandwidth=3.35e12, link=450e9),
    "h200": Device(name="H200 SXM", memory_gb=141, flops=989e12, bandwidth=4.8e12, link=450e9),
    "a100": Device(name="A100 SXM 80 GB", memory_gb=80, flops=312e12, bandwidth=2.039e12, link=300e9),
}
"""Names on the command line."""


def find_device(name: str) -> Device:
    """Raises ConfigError for a name that is not there."""
    if name.lower() not in DEVICES:
        raise ConfigError(f"--device-name {name} is not known; known: {', '.join(DEVICES)}, or give --rates")
    return DEVICES[name.lower()]
