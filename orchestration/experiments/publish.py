"""What an experiment leaves for others: figure and table, and its entry in docs/results/summary.json."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from configs.identity import result_hash
from orchestration.experiments.arms import ArmRun
from orchestration.experiments.report import Results, write
from orchestration.run_dir import write_atomic
from quorum.errors import ConfigError, DataError

RESULTS = Path("docs") / "results"
SUMMARY = "summary.json"
_GIT_SECONDS = 10.0


def config_hash(runs: Sequence[ArmRun]) -> str:
    """Hash (32 hex digits) of what every run's results follow from."""
    hashes = {f"{run.arm}/{run.seed}": result_hash(run.config) for run in runs}
    return hashlib.blake2b(json.dumps(hashes, sort_keys=True).encode(), digest_size=16).hexdigest()


def commit() -> str:
    """Of this source tree, marked where files differ from it; "unknown" outside a repository."""
    root = Path(__file__).parents[2]
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def publish(results: Results, num_runs: int, folder: Path = RESULTS) -> list[Path]:
    """Write figure, table and entry.

    Args:
        results: of an experiment of which everything is done.
        num_runs: that it should have.
        folder: where the results of all experiments are.

    Raises:
        ConfigError: runs are missing.
        DataError: the summary there is not readable.
        StorageError: something cannot be written.
    """
    there = sum(len(held) for held in results.runs.values())
    if there != num_runs:
        raise ConfigError(f"{there} of {num_runs} runs are done: call the command again to finish it, then publish")
    written = write(results, folder)
    path, origin = folder / SUMMARY, results.origin
    summary = _read(path)
    defined = {name: value for name, value in results.figures.items() if value is not None}
    summary = {name: value for name, value in summary.items() if name not in results.figures} | defined
    entry = {
        "figures": dict(results.figures),
        "command": origin.command,
        "commit": origin.commit,
        "config_hash": origin.config_hash,
        "machine": origin.machine,
        "seeds": results.experiment.seeds,
    }
    held = summary.pop("experiments", {})
    summary["experiments"] = held | {origin.name: entry}
    write_atomic(path, json.dumps(summary, indent=2) + "\n")
    return [*written, path]


def _read(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; move it away, or mend it") from error
    if not isinstance(found, dict) or not isinstance(found.get("experiments", {}), dict):
        raise DataError(f"{path}: expected an object with figures and `experiments`")
    return found
