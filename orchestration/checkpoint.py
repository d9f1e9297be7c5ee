"""Checkpoints: written beside, fsynced, renamed; only then the oldest go. `latest` names the newest whole one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from learner.group import LearnerGroup
from orchestration.run_dir import write_atomic
from orchestration.storage import fsync_dir, storage_errors
from quorum.errors import DataError

LABELS_FILE = "labels.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """What the loop needs besides the learner's own state to go on."""

    step: int
    """Steps done; the next step has this number."""
    next_group_id: int
    version: int
    branch: int
    num_empty_steps: int
    """Steps without a trainable group, in a row."""
    num_updates: int
    identity_hash: str
    """Hash of the configuration fields that make the history."""


def read_labels(checkpoint: Path) -> dict[str, str]:
    """Last label of every prompt as of a checkpoint; empty where an earlier release made it."""
    path = checkpoint / LABELS_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} is not readable: {exc}") from exc


def checkpoint_path(run_path: Path, step: int) -> Path:
    return run_path / "checkpoints" / f"step-{step:06d}"


def save_checkpoint(
    run_path: Path, learner: LearnerGroup, state: LoopState, labels: Mapping[str, str], keep: int
) -> Path:
    """Save learner, loop state and the last label of every prompt after `state.step` steps.

    Raises:
        StorageError, LearnerError
    """
    final = checkpoint_path(run_path, state.step)
    pointer = final.parent / "latest"
    if final.exists() and _target(pointer) == final.name:
        return final
    beside = final.with_name(f".{final.name}.tmp")
    with storage_errors(beside):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    learner.save(str(beside), {"step": state.step, "version": state.version})
    write_atomic(beside / "state.json", json.dumps(asdict(state), indent=2) + "\n")
    write_atomic(beside / LABELS_FILE, json.dumps(labels) + "\n")
    with storage_errors(final):
        # A whole checkpoint that `latest` does not name was left by a crash between these two lines.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(beside, final)
        fsync_dir(final.parent)
    write_atomic(pointer, final.name + "\n")
    _prune(final.parent, keep)
    return final


def latest_checkpoint(run_path: Path) -> tuple[Path, LoopState] | None:
    """Newest whole checkpoint and its state, or None. Raises DataError when `latest` points nowhere."""
    pointer = run_path / "checkpoints" / "latest"
    name = _target(pointer)
    if name is None:
        return None
    path = pointer.parent / name
    try:
        state = LoopState(**json.loads((path / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as exc:
        raise DataError(f"checkpoint {path} named by {pointer} is not readable: {exc}") from exc
    return path, state


def _target(pointer: Path) -> str | None:
    """Name of the checkpoint that `latest` names; None without one."""
    return pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None


def _prune(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to the one that `latest` names, later ones, and leftovers."""
    latest = _target(directory / "latest") or ""
    with storage_errors(directory):
        whole = sorted(path.name for path in directory.glob("step-*"))
        kept = [name for name in whole if name <= latest][-keep:]
        for name in whole:
            if name not in kept:
                shutil.rmtree(directory / name)
        for leftover in directory.glob(".step-*.tmp"):
            shutil.rmtree(leftover)
