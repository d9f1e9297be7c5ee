"""The result file: one JSON object, whole at any moment, with an entry per stage that ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.cli.result import machine, versions
from quorum.errors import DataError

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("quorum", "configs", "data", "rollout", "voting", "learner", "orchestration", "benchmarks", "tests/gpu")
_SMI_SECONDS = 30
_MIB_PER_GIB = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where and with what stages run. Entries of another place are not taken over."""

    machine: str
    gpus: tuple[Mapping[str, str], ...]
    """name, driver and memory (MiB, with its unit) of each, as nvidia-smi says."""
    versions: Mapping[str, str]
    code: str
    """Hash of the source files."""
    device: str
    is_tiny: bool

    @property
    def gpu_gib(self) -> list[float]:
        """Memory of each GPU."""
        return [float(gpu["memory"].split()[0]) / _MIB_PER_GIB for gpu in self.gpus]

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "machine": self.machine,
            "gpus": [dict(gpu) for gpu in self.gpus],
            "versions": dict(self.versions),
            "code": self.code,
            "device": self.device,
            "tiny": self.is_tiny,
        }


def this_place(device: str, is_tiny: bool) -> Place:
    """The machine, versions and code that are here."""
    return Place(machine(), gpus(), versions(), code_hash(), device, is_tiny)


def gpus() -> tuple[dict[str, str], ...]:
    """Every GPU by nvidia-smi; none without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return ()
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return tuple(dict(zip(("name", "driver", "memory"), row, strict=True)) for row in rows)


def code_hash(root: Path = ROOT) -> str:
    """Of all source files and presets; a copy without a repository has the same."""
    digest = hashlib.sha256()
    paths = [path for name in CODE for path in (root / name).rglob("*") if path.suffix in (".py", ".yaml")]
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class ResultFile:
    """Entries by stage. Written beside the file and put in its place, so that it is never half there."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            DataError: it is no result file of this layout.
        """
        self.path = path
        self.stages: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                content = json.loads(path.read_text())
                schema, self.stages = content["schema"], content["stages"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path} is no result file of gpu-check ({error}); move it away") from error
            if schema != SCHEMA:
                raise DataError(f"{path} has layout {schema}, this version writes {SCHEMA}; move it away")

    def held(self, stage: str, place: Place, *, keeps_failures: bool, any_code: bool = False) -> bool:
        """Whether a stage need not run again: it ended with figures at this place.

        Args:
            stage: its name.
            place: where it would run.
            keeps_failures: take those that failed or ran out of time as well.
            any_code: take those of other source code as well.
        """
        entry = self.stages.get(stage)
        if entry is None or entry["outcome"] == "skipped":
            return False
        was, here = dict(entry["place"]), place.plain()
        if any_code:
            was["code"] = here["code"] = ""
        return was == here and (keeps_failures or entry["outcome"] in ("passed", "missed"))

    def record(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Set a stage's entry and write the file."""
        self.stages[stage] = dict(entry)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("w") as file:
            json.dump({"schema": SCHEMA, "stages": self.stages}, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path)
